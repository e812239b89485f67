/** What the service offers, read once: pickers show these lists and nothing else. */
import { read } from '../../api/client'
import { asProblem, type Problem } from '../../api/problem'

export interface Option {
  name: string
  type: string
  required?: boolean
  description?: string
  default?: unknown
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
  derivative: string
  options: Option[]
  counter_example?: boolean
}

class Catalogue {
  activations = $state.raw<Entry[]>([])
  losses = $state.raw<Entry[]>([])
  optimizers = $state.raw<Entry[]>([])
  initializers = $state.raw<Entry[]>([])
  problem = $state.raw<Problem>()
  #asked = false

  async load(): Promise<void> {
    if (this.#asked) return
    this.#asked = true
    this.problem = undefined
    try {
      const [activations, losses, optimizers, initializers] = await Promise.all([
        read('/v1/activations'),
        read('/v1/losses'),
        read('/v1/optimizers'),
        read('/v1/initializers'),
      ])
      this.activations = activations.activations as Entry[]
      this.losses = losses.losses as Entry[]
      this.optimizers = optimizers.optimizers as Entry[]
      this.initializers = initializers.initializers as Entry[]
    } catch (error) {
      this.problem = asProblem(error)
      this.#asked = false
    }
  }
}

export const catalogue = new Catalogue()

/** Options that a number field, a switch or a list of words can show. */
export function editable(entry: Entry | undefined): Option[] {
  return (entry?.options ?? []).filter((option) => ['number', 'integer', 'boolean', 'string'].includes(option.type))
}

export function defaultOf(entries: Entry[], name: string, option: string): unknown {
  return entries.find((each) => each.name === name)?.options.find((each) => each.name === option)?.default
}
