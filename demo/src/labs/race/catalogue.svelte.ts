/** What may be chosen: optimizers, schedules and presets, as the service lists them. Nothing of it is written here. */

import { read } from '../../api/client'
import type { Json } from '../../stage/links'
import { spoken } from '../../stage/language.svelte'
import type { Choice, Range } from './state'

export interface Option {
  name: string
  type: string
  required: boolean
  description: string
  default?: Json
  minimum?: number
  maximum?: number
  exclusive_minimum?: number
  exclusive_maximum?: number
  values?: string[]
}

export interface Entry {
  name: string
  description: { en: string; zh: string }
  latex: string
  options: Option[]
  sources: string[]
  counter_example?: boolean
  state?: string[]
  /** Of an optimizer: the learning rate times λmax that it bears on a parabola; null: nobody knows one. */
  stable_factor?: number | null
  expression?: string
  variables?: string[]
  domain?: number[][]
  teaches?: { en: string; zh: string }
  starts?: number[][]
  trials?: { optimizer: Record<string, unknown>; steps: number }[]
}

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
    this.optimizers = (optimizers.optimizers ?? []) as unknown as Entry[]
    this.schedules = (schedules.schedules ?? []) as unknown as Entry[]
    this.presets = (presets.presets ?? []) as unknown as Entry[]
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
