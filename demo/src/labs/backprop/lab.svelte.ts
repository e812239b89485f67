/** The state of the lab, what follows from it, and the requests that it makes. */
import { untrack } from 'svelte'
import { asProblem, type Problem } from '../../api/problem'
import { linked } from '../../stage/linked.svelte'
import { Timeline } from '../../stage/timeline.svelte'
import { CHECKS, DEFAULTS, fits, layerNames, problemOf, requestOf, trainingOf, weightsOf, withData, type Choice, type Definition } from './definition'
import { catalogue, defaultOf } from './catalogue.svelte'
import type { DatasetName } from './datasets'
import { Follower } from './follower'
import { entriesOf, parseAddress, valueAt, withValue, type Tree } from './parameters'
import { passOf, sizesOf, type Pass, type PassAnswer } from './pass'
import { lastPhase } from './pulses'
import type { Place } from './derivation'
import { answerOf } from './service'
import { Training } from './training.svelte'

export type Mode = 'pass' | 'training'
export type View = 'network' | 'graph'
export const NUMBERS = ['both', 'weight', 'gradient'] as const
export type Shown = (typeof NUMBERS)[number]
export const TABS = ['weight', 'numbers', 'flow', 'optimizer'] as const
export type Tab = (typeof TABS)[number]

type LinkState = Definition & {
  mode: Mode
  view: View
  shown: Shown
  tab: Tab
  /** Address of the chosen weight. */
  chosen: string
  /** The training step that is shown. */
  step: number
}

const LINK_DEFAULTS: LinkState = {
  ...DEFAULTS,
  mode: 'pass',
  view: 'network',
  shown: 'both',
  tab: 'weight',
  chosen: 'hidden.kernel[0][1]',
  step: 0,
}

/** A layer of the network in 250 to 400 milliseconds. */
const PHASE = 330
/** While a training is drawn the numbers on the neurons follow a few times a second. */
const REST = 60

export class Lab {
  readonly state = linked('backprop', LINK_DEFAULTS as never, {
    ...CHECKS,
    mode: (value: Mode) => value === 'pass' || value === 'training',
    view: (value: View) => value === 'network' || value === 'graph',
    shown: (value: Shown) => NUMBERS.includes(value),
    tab: (value: Tab) => TABS.includes(value),
    chosen: (value: string) => parseAddress(value) !== null,
    step: (value: number) => Number.isInteger(value) && value >= 0 && value <= 1_000_000,
  } as never) as unknown as LinkState
  readonly passage = new Timeline()
  readonly training = new Training()

  /** What was answered last, and for which parameters. */
  pass = $state.raw<Pass>()
  problem = $state.raw<Problem>()
  busy = $state(false)
  /** What formula and picture point at together. */
  pointed = $state.raw<Place | null>(null)

  /** The definition as text: what follows from it is made anew only where the text differs. */
  readonly #text = $derived(JSON.stringify(Object.fromEntries(Object.keys(DEFAULTS).map((key) => [key, this.state[key as keyof Definition]]))))
  readonly definition = $derived(JSON.parse(this.#text) as Definition)
  readonly names = $derived(layerNames(this.definition.layers.length))
  readonly task = $derived(problemOf(this.definition))
  readonly sizes = $derived(sizesOf(this.task?.inputs ?? 1, this.definition.layers))
  readonly time = $derived<Timeline>(this.state.mode === 'training' ? this.training : this.passage)
  /** What is sent as the start; null lets the service draw the weights. */
  readonly start = $derived(this.task ? weightsOf(this.definition, this.task.inputs) : null)
  /** The parameters at the place where the lab is. */
  readonly parameters = $derived.by((): Tree | null => {
    const at = this.state.mode === 'training' ? this.training.at : 0
    return at > 0 ? (this.training.steps[at - 1]?.parameters ?? null) : this.start
  })
  /** The weights that are shown: those of the present step at once, others as soon as the service has drawn them. */
  readonly weights = $derived.by((): Tree | null => {
    const weights = this.parameters ?? this.pass?.parameters ?? null
    return weights && this.task && fits(weights, this.definition, this.task.inputs) ? weights : null
  })
  /** The body of `/v1/gradients` without its `include`. */
  readonly request = $derived(
    this.task ? requestOf(this.definition, this.task, this.parameters) : null,
  )
  /** Whether the pass that was answered is the one that is asked: its numbers belong to the weights that are shown. */
  readonly fresh = $derived(this.pass !== undefined && !this.problem && this.pass.request === this.request)
  /** Where the pulse is: everything is known while a training is shown. */
  readonly phase = $derived(
    this.state.mode === 'training' ? lastPhase(this.names.length) : Math.min(this.passage.shown, this.passage.last),
  )
  /** The chosen weight; the first one where the network has none of that name. */
  readonly chosen = $derived(
    valueAt(this.weights, this.state.chosen) === undefined ? (entriesOf(this.weights ?? {})[0]?.address ?? null) : this.state.chosen,
  )

  #passes = new Follower<Record<string, unknown>, PassAnswer>(
    (request, signal) =>
      answerOf<'/v1/gradients', PassAnswer>(
        '/v1/gradients',
        { ...request, include: ['layers', 'input_gradients', 'per_sample', 'norms'] },
        { signal, panel: 'backprop.pass' },
      ),
    (answer, request) => {
      this.pass = passOf(answer, request as never, this.task?.rows ?? [])
      this.problem = undefined
      this.busy = false
    },
    (error) => {
      this.problem = asProblem(error)
      this.busy = false
    },
    REST,
  )

  constructor() {
    this.passage.rate = 1000 / PHASE
    this.passage.glide = PHASE
    this.training.start = () => this.train()
    $effect(() => {
      const request = this.request
      if (!request) return
      untrack(() => {
        this.busy = true
        this.#passes.want(request, this.training.playing)
      })
    })
    $effect(() => {
      this.passage.last = lastPhase(this.names.length)
      untrack(() => this.passage.end())
    })
    // A training belongs to one definition: another one begins anew. Only the number of steps may grow.
    let known = ''
    $effect(() => {
      const { steps: _, ...definition } = this.trainingRequest() ?? {}
      const now = JSON.stringify(definition)
      untrack(() => {
        if (known !== '' && known !== now) {
          this.training.clear()
          this.state.step = 0
        } else if (known === '' && this.state.mode === 'training' && this.state.step > 0) void this.resume()
        known = now
      })
    })
    $effect(() => {
      if (this.state.mode !== 'training' || this.training.playing || this.training.open) return
      const at = this.training.at
      untrack(() => {
        if (this.training.steps.length > 0) this.state.step = at
      })
    })
  }

  trainingRequest(): Record<string, unknown> | null {
    return this.task ? trainingOf(this.definition, this.task, this.start) : null
  }

  /** Make the steps of the definition, and draw them as they come. */
  train(): void {
    const request = this.trainingRequest()
    if (!request) return
    this.state.mode = 'training'
    this.training.clear()
    void this.training.read(request)
  }

  /** Train and watch it. */
  watch(): void {
    this.train()
    this.training.play()
  }

  /** As many steps again, from where the training ended. */
  more(): void {
    const checkpoint = this.training.summary?.checkpoint
    const request = this.task && trainingOf(this.definition, this.task, this.start, checkpoint)
    if (!request || !checkpoint) return
    const before = this.training.steps.length
    this.state.steps = before + (request.steps as number)
    void this.training.read(request)
    this.training.play()
  }

  /** A link that names a step shows that step. */
  async resume(): Promise<void> {
    const step = this.state.step
    const request = this.trainingRequest()
    if (!request) return
    await this.training.read(request)
    this.training.seek(step)
  }

  choose(address: string): void {
    this.state.chosen = address
    this.state.tab = 'weight'
  }

  chooseData(data: DatasetName): void {
    Object.assign(this.state, withData(this.definition, data))
    this.state.step = 0
    this.state.mode = 'pass'
  }

  /** The learning rate is always said: links compare a choice with that of the defaults, part by part. */
  chooseOptimizer(choice: Choice): void {
    const rate = choice.learning_rate ?? defaultOf(catalogue.optimizers, choice.type, 'learning_rate') ?? 0.01
    this.state.optimizer = { ...choice, learning_rate: rate as number }
  }

  /** One weight by hand: the weights that are shown become the start, with this one changed. */
  edit(address: string, value: number): void {
    const shown = this.weights
    if (!shown || !Number.isFinite(value)) return
    this.state.weights = withValue(shown, address, value)
    if (this.state.mode === 'training') this.training.clear()
    this.state.step = 0
  }

  /** Whether the weights are not those that the definition begins with. */
  get edited(): boolean {
    return this.state.weights !== null
  }

  restore(): void {
    this.state.weights = null
  }

  close(): void {
    this.#passes.abort()
    this.training.cancel()
  }
}
