import './stage/theme.css'
import { mount } from 'svelte'
import { preferredLanguage, speak } from './stage/language.svelte'
import { theme } from './stage/theme.svelte'
import Stage from './stage/Stage.svelte'

theme.begin()
await speak(preferredLanguage())
mount(Stage, { target: document.getElementById('stage')! })
