import './stage/theme.css'
import { mount } from 'svelte'
import { labNamed } from './labs'
import { preferredLanguage, speak } from './stage/language.svelte'
import { split } from './stage/links'
import { theme } from './stage/theme.svelte'
import Stage from './stage/Stage.svelte'

theme.begin()
// While the texts come. The stage says it if this fails.
labNamed(split(location.hash).lab).load().catch(() => undefined)
await speak(preferredLanguage())
mount(Stage, { target: document.getElementById('stage')! })
