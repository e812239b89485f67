/** What the service offers, read once: pickers show these lists and nothing else. */
import type { Entry, Option } from '../../api/catalogue'
import { read } from '../../api/client'
import { asProblem, type Problem } from '../../api/problem'

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
      this.activations = activations.activations ?? []
      this.losses = losses.losses ?? []
      this.optimizers = optimizers.optimizers ?? []
      this.initializers = initializers.initializers ?? []
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
