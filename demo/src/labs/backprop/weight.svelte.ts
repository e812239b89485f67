/** What is known of the chosen weight: its derivation, its meaning, and the error curve along it. */
import { untrack } from 'svelte'
import { asProblem, type Problem } from '../../api/problem'
import { spoken } from '../../stage/language.svelte'
import { catalogue } from './catalogue.svelte'
import type { Explanation, Meaning } from './derivation'
import { Follower } from './follower'
import type { Lab } from './lab.svelte'
import { valueAt } from './parameters'
import { answerOf } from './service'

export interface Curve {
  loss: number
  losses: number[]
  tangent: number[]
  axes: { centre: number; values: number[]; slope: number; curvature: number; largest_stable_step: number | null; texts: string[] }[]
}

/** Up to so many samples the derivation is that of the whole batch; of more it is that of one sample. */
export const MOST_DERIVED = 8
const POINTS = 81

export class WeightEvidence {
  explanation = $state.raw<Explanation>()
  meaning = $state.raw<Meaning>()
  problem = $state.raw<Problem>()
  curve = $state.raw<Curve>()
  curveProblem = $state.raw<Problem>()
  /** The weight that the derivation is about. */
  address = $state('')
  /** The sample of the request that is derived, where there are too many for all. */
  sample = $state(0)
  busy = $state(false)
  readonly many: boolean = $derived.by(() => (this.#lab.task?.rows.length ?? 0) > MOST_DERIVED)
  readonly #lab: Lab

  #explain = new Follower<Record<string, unknown>, [Explanation, Meaning | undefined]>(
    async (body, signal) => {
      const { whole, ...one } = body
      const explanation = answerOf<'/v1/gradients/explain', Explanation>('/v1/gradients/explain', one, { signal, panel: 'backprop.explain' })
      if (!whole) return [await explanation, undefined]
      const { sample: _, ...batch } = one
      const all = answerOf<'/v1/gradients/explain', Explanation>('/v1/gradients/explain', { ...batch, depth: 1 }, { signal, panel: 'backprop.meaning' })
      return [await explanation, (await all).meanings[0]]
    },
    ([explanation, meaning], body) => {
      this.explanation = explanation
      this.meaning = meaning ?? explanation.meanings[0]
      this.address = body.parameter as string
      this.problem = undefined
      this.busy = false
    },
    (error) => {
      this.problem = asProblem(error)
      this.busy = false
    },
  )
  #landscape = new Follower<Record<string, unknown>, Curve>(
    (body, signal) => answerOf<'/v1/landscape', Curve>('/v1/landscape', body, { signal, panel: 'backprop.landscape' }),
    (answer) => {
      this.curve = answer
      this.curveProblem = undefined
    },
    (error) => (this.curveProblem = asProblem(error)),
  )

  constructor(lab: Lab) {
    this.#lab = lab
    $effect(() => {
      const { chosen, request } = lab
      if (!chosen || !request || lab.training.playing || lab.problem) return
      const rate = lab.state.optimizer.learning_rate ?? catalogue.optimizers.find((each) => each.name === lab.state.optimizer.type)?.options.find((each) => each.name === 'learning_rate')?.default
      const body = {
        ...request,
        parameter: chosen,
        convention: lab.state.convention,
        language: spoken.language,
        ...(typeof rate === 'number' ? { learning_rate: rate } : {}),
        ...(this.many ? { sample: Math.min(this.sample, (request.inputs as unknown[]).length - 1), whole: true } : {}),
      }
      untrack(() => {
        this.busy = true
        this.#explain.want(body)
      })
    })
    $effect(() => {
      const { chosen, request } = lab
      const value = valueAt(lab.weights, chosen ?? '')
      if (!chosen || !request || value === undefined || !Number.isFinite(value) || lab.training.playing || lab.problem) return
      const range = rangeAround(value)
      const body = { ...request, along: [{ parameter: chosen, range, resolution: POINTS }], language: spoken.language }
      untrack(() => this.#landscape.want(body))
    })
  }

  abort(): void {
    this.#explain.abort()
    this.#landscape.abort()
  }
}

/** A round range around 0 that holds the value, and stays the same while the value moves a little. */
export function rangeAround(value: number): [number, number] {
  let half = 4
  while (half < Math.abs(value) * 1.25) half *= 2
  return [-half, half]
}
