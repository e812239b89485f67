/** What may be chosen: optimizers, schedules and presets, as the service lists them. Nothing of it is written here. */

import type { Entry, Option } from '../../api/catalogue'
import { read } from '../../api/client'
import type { Json } from '../../stage/links'
import { spoken } from '../../stage/language.svelte'
import type { Choice, Range } from './state'

class Catalogue {
  optimizers = $state.raw<Entry[]>([])
  schedules = $state.raw<Entry[]>([])
  presets = $state.raw<Entry[]>([])
  #asked = false

  /** Once for the page. The lab works without it: pickers then hold what is chosen. */
  async load(): Promise<void> {
    if (this.#asked) return
    this.#asked = true
    const [optimizers, schedules, presets] = await Promise.all([
      read('/v1/optimizers', {}, { panel: 'race.optimizers' }),
      read('/v1/schedules', {}, { panel: 'race.schedules' }),
      read('/v1/functions/presets', {}, { panel: 'race.presets' }),
    ])
    this.optimizers = optimizers.optimizers ?? []
    this.schedules = schedules.schedules ?? []
    this.presets = presets.presets ?? []
  }

  optimizer(name: string): Entry | undefined {
    return this.optimizers.find((entry) => entry.name === name)
  }
}
export const catalogue = new Catalogue()

/** A text of the catalogue in the language of the page. */
export function told(text: { en: string; zh: string } | undefined): string {
  return text ? text[spoken.language] : ''
}

/** The options that a choice does not set get their defaults; where there is none, a number that can be changed. */
export function choiceOf(entry: Entry): Choice {
  const choice: Choice = { type: entry.name }
  for (const option of entry.options) {
    if (option.name === 'learning_rate' && typeof option.default === 'number') choice['learning_rate'] = option.default
    else if (option.required) choice[option.name] = suggested(option)
  }
  return choice
}

/** A first value of an option that has no default. */
export function suggested(option: Option): Json {
  if (option.type === 'integer') return Math.max(50, option.minimum ?? 0)
  if (option.type === 'number') return option.exclusive_maximum === 1 || option.maximum === 1 ? 0.95 : 0.1
  if (option.type === 'integer list') return option.name === 'boundaries' ? [50] : [50, 100]
  if (option.type === 'number list') return [0.1, 0.01]
  return option.values?.[0] ?? true
}

/** What a preset sets: its function, where it is worth looking at, and its first start. */
export function presetState(entry: Entry): { expression: string; variables: string[]; box: Range[]; points: number[][] } {
  return {
    expression: entry.expression ?? '',
    variables: [...(entry.variables ?? [])],
    box: (entry.domain ?? []).map((range) => [range[0]!, range[1]!] as Range),
    points: (entry.starts ?? []).slice(0, 1).map((start) => [...start]),
  }
}
