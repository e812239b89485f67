/** What is known of the chosen weight: its derivation, its meaning, and the error curve along it. */
import { defaultOf } from '../../api/catalogue'
import { untrack } from 'svelte'
import { asProblem, type Problem } from '../../api/problem'
import { spoken } from '../../stage/language.svelte'
import { catalogue } from './catalogue.svelte'
import type { Explanation, Meaning } from './derivation'
import { Follower } from './follower'
import type { Lab } from './lab.svelte'
import { entriesOf, valueAt } from './parameters'
import { answerOf } from './service'

export interface Curve {
  loss: number
  losses: number[]
  tangent: number[]
  axes: { centre: number; values: number[]; slopes: number[]; slope: number; curvature: number; largest_stable_step: number | null; texts: string[] }[]
}

/** Up to so many samples the derivation is that of the whole batch; of more it is that of one sample. */
export const MOST_DERIVED = 8
const POINTS = 81
/** Of so few weights the derivations are asked ahead, after so many milliseconds without a change. */
const MOST_AHEAD = 24
const QUIET = 250

type Answer = [Explanation, Meaning | undefined]

/** The panel of a weight's derivation, for its request. */
export const panelOf = (address: string): string => `backprop.explain.${address}`

async function explained(body: Record<string, unknown>, signal: AbortSignal): Promise<Answer> {
  const { whole, ...one } = body
  const options = { signal, panel: panelOf(body.parameter as string) }
  const explanation = answerOf<'/v1/gradients/explain', Explanation>('/v1/gradients/explain', one, options)
  if (!whole) return [await explanation, (await explanation).meanings[0]]
  const { sample: _, ...batch } = one
  const all = answerOf<'/v1/gradients/explain', Explanation>(
    '/v1/gradients/explain', { ...batch, depth: 1 }, { signal, panel: 'backprop.meaning' },
  )
  const [first, second] = await Promise.all([explanation, all])
  return [first, second.meanings[0]]
}

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

  /** Derivations of the present network, by weight: those of a small network are asked before they are wanted. */
  #known = new Map<string, Answer>()
  #subject = ''
  #ahead: AbortController | undefined
  #explain = new Follower<Record<string, unknown>, Answer>(
    (body, signal) => explained(body, signal),
    (answer, body) => this.#show(answer, body),
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
    const subject = $derived.by(() => {
      const { request } = lab
      if (!request || lab.training.moving || !lab.fresh) return null
      const rate = lab.state.optimizer.learning_rate ?? defaultOf(catalogue.optimizers, lab.state.optimizer.type, 'learning_rate')
      return {
        ...request,
        convention: lab.state.convention,
        language: spoken.language,
        ...(typeof rate === 'number' ? { learning_rate: rate } : {}),
        ...(this.many ? { sample: Math.min(this.sample, (request.inputs as unknown[]).length - 1), whole: true } : {}),
      }
    })
    $effect(() => {
      const { chosen } = lab
      if (!chosen || !subject) return
      untrack(() => this.#want({ ...subject, parameter: chosen }, JSON.stringify(subject)))
    })
    $effect(() => {
      if (!subject || this.many) return
      const addresses = entriesOf(lab.weights ?? {}).map((entry) => entry.address)
      if (addresses.length > MOST_AHEAD) return
      const timer = setTimeout(() => void this.#readAhead(subject, addresses), QUIET)
      return () => {
        clearTimeout(timer)
        this.#ahead?.abort()
      }
    })
    $effect(() => {
      const { chosen, request } = lab
      const value = valueAt(lab.weights, chosen ?? '')
      if (!chosen || !request || value === undefined || !Number.isFinite(value) || lab.training.moving || !lab.fresh) return
      const range = rangeAround(value)
      const body = { ...request, along: [{ parameter: chosen, range, resolution: POINTS }], language: spoken.language }
      untrack(() => this.#landscape.want(body))
    })
  }

  #want(body: Record<string, unknown>, subject: string): void {
    if (subject !== this.#subject) this.#known.clear()
    this.#subject = subject
    const known = this.#known.get(body.parameter as string)
    if (known) {
      this.#explain.abort()
      this.#show(known, body)
    } else {
      this.busy = true
      this.#explain.want(body)
    }
  }

  #show([explanation, meaning]: Answer, body: Record<string, unknown>): void {
    this.#known.set(body.parameter as string, [explanation, meaning])
    this.explanation = explanation
    this.meaning = meaning
    this.address = body.parameter as string
    this.problem = undefined
    this.busy = false
  }

  async #readAhead(subject: Record<string, unknown>, addresses: string[]): Promise<void> {
    const mine = (this.#ahead = new AbortController())
    const text = JSON.stringify(subject)
    try {
      for (const parameter of addresses) {
        if (this.#subject !== text || mine.signal.aborted) return
        if (!this.#known.has(parameter)) {
          const answer = await explained({ ...subject, parameter }, mine.signal)
          if (this.#subject === text) this.#known.set(parameter, answer)
        }
      }
    } catch {
      // Who chooses that weight asks again, and sees what is wrong.
    }
  }

  abort(): void {
    this.#ahead?.abort()
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
