/** The state of the lab, what follows from it, and the requests that it makes. */
import { defaultOf } from '../../api/catalogue'
import { untrack } from 'svelte'
import { asProblem, type Problem } from '../../api/problem'
import { passes, rest } from '../../runs/follow'
import { myRuns } from '../../runs/mine.svelte'
import { Run } from '../../runs/run.svelte'
import { linked } from '../../stage/linked.svelte'
import { write } from '../../stage/links'
import { Timeline } from '../../stage/timeline.svelte'
import { CHECKS, DEFAULTS, fits, layerNames, MOST_LIVE, problemOf, recordsOf, requestOf, trainingOf, weightsOf, withData, type Choice, type Definition } from './definition'
import { catalogue } from './catalogue.svelte'
import type { DatasetName } from './datasets'
import { Follower } from './follower'
import { entriesOf, parseAddress, valueAt, withValue, type Tree } from './parameters'
import { passOf, sizesOf, type Pass, type PassAnswer } from './pass'
import { lastPhase } from './pulses'
import type { Place } from './derivation'
import { answerOf } from './service'
import { Training, type TrainingStep } from './training.svelte'

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
  /** Whether a training goes on when the page is left. */
  keep: boolean
  /** The run that is shown; empty for none. */
  run: string
}

const LINK_DEFAULTS: LinkState = {
  ...DEFAULTS,
  mode: 'pass',
  view: 'network',
  shown: 'both',
  tab: 'weight',
  chosen: 'hidden.kernel[0][1]',
  step: 0,
  keep: false,
  run: '',
}

/** A layer of the network in 250 to 400 milliseconds. */
const PHASE = 330
/** While a training is drawn the numbers on the neurons follow a few times a second. */
const REST = 60
/** Seconds before a service that did not answer is asked again. */
const AGAIN = 2

export class Lab {
  readonly state = linked('backprop', LINK_DEFAULTS as never, {
    ...CHECKS,
    mode: (value: Mode) => value === 'pass' || value === 'training',
    view: (value: View) => value === 'network' || value === 'graph',
    shown: (value: Shown) => NUMBERS.includes(value),
    tab: (value: Tab) => TABS.includes(value),
    chosen: (value: string) => parseAddress(value) !== null,
    step: (value: number) => Number.isInteger(value) && value >= 0,
    run: (value: string) => /^([\da-f]{32})?$/.test(value),
  } as never) as unknown as LinkState
  readonly passage = new Timeline()
  readonly training = new Training()
  /** The training as a run, where it is one: the service goes on with it when the page is left. */
  readonly run = new Run<TrainingStep>(this.training, 'backprop.steps')

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
  /** The parameters at the place where the lab is. A training of another network is about to be forgotten. */
  readonly parameters = $derived.by((): Tree | null => {
    const at = this.state.mode === 'training' ? this.training.at : 0
    const reached = at > 0 ? this.training.steps[at - 1]?.parameters : undefined
    return reached && this.task && fits(reached, this.definition, this.task.inputs) ? reached : this.start
  })
  /** The weights that are shown: those of the present step at once, others as soon as the service has drawn them. */
  readonly weights = $derived.by((): Tree | null => {
    const weights = this.parameters ?? this.pass?.parameters ?? null
    return weights && this.task && fits(weights, this.definition, this.task.inputs) ? weights : null
  })
  /** Whether the next training is handed over as a run. */
  readonly asRun = $derived(this.state.keep || this.state.steps > MOST_LIVE)
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

  /** The step of a link that is not there yet; 0 for none. */
  #wanted = $state(0)

  readonly #closed = new AbortController()

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
    (error, request) => {
      // While a run is shown, a service that does not answer is waited for, and the picture stays.
      const waits = this.run.id !== '' && passes(error)
      if (!waits || !this.pass) this.problem = asProblem(error)
      this.busy = false
      if (waits) void rest(AGAIN, this.#closed.signal).then(() => request === this.request && this.#passes.want(request))
    },
    REST,
  )

  constructor() {
    this.passage.rate = 1000 / PHASE
    this.passage.glide = PHASE
    this.training.start = () => (this.asRun ? void this.handOver() : this.train())
    $effect(() => {
      const request = this.request
      if (!request) return
      untrack(() => {
        this.busy = true
        this.#passes.want(request, this.training.moving)
      })
    })
    $effect(() => {
      this.passage.last = lastPhase(this.names.length)
      untrack(() => this.passage.end())
    })
    // A training belongs to one definition: another one begins anew. Only the number of steps may grow.
    let known = ''
    $effect(() => {
      const { steps: _, trace: __, ...definition } = this.trainingRequest() ?? {}
      const now = JSON.stringify(definition)
      const run = this.state.run
      untrack(() => {
        const first = known === ''
        if (run !== this.run.id) this.#look(run)
        else if (!first && known !== now) {
          this.#forget()
          this.state.step = 0
        } else if (first && this.state.mode === 'training' && this.state.step > 0 && !this.asRun) void this.resume()
        known = now
      })
    })
    // A link that names a step of a run shows that step as soon as it is there, one that names none the newest.
    $effect(() => {
      if (this.#wanted === 0 || (this.training.open && this.training.number(this.training.last) < this.#wanted)) return
      untrack(() => {
        this.training.seek(this.training.placeOf(this.#wanted))
        this.#wanted = 0
      })
    })
    $effect(() => {
      if (this.state.mode !== 'training' || this.training.moving || this.training.open || this.#wanted > 0) return
      const at = this.training.number(this.training.at)
      untrack(() => {
        if (this.training.steps.length > 0) this.state.step = at
      })
    })
  }

  trainingRequest(thinned?: boolean): Record<string, unknown> | null {
    return this.task ? trainingOf(this.definition, this.task, this.start, null, thinned) : null
  }

  /** Make the steps of the definition, and draw them as they come. */
  train(): void {
    const request = this.trainingRequest()
    if (!request) return
    this.state.mode = 'training'
    this.#forget()
    void this.training.read(request)
  }

  /** Hand the training over as a run, and watch it. */
  async handOver(): Promise<void> {
    const request = this.trainingRequest(true)
    if (!request || !this.task) return
    this.state.mode = 'training'
    this.#forget(2 * recordsOf(this.definition, this.task.inputs))
    this.training.following = true
    if (!(await this.run.start(request, 'backprop.train')) || !this.run.entry) {
      if (this.run.problem?.at('#/request').length) {
        // What is wrong with the training is told beside the controls that made it.
        this.training.problem = this.run.problem.within('#/request')
        this.run.problem = undefined
      }
      return
    }
    this.state.run = this.run.id
    this.state.step = 0
    const shown = { ...$state.snapshot(this.state), mode: 'training', step: 0 } as never
    const about = [this.state.data, this.state.optimizer.type]
    myRuns.add({ id: this.run.id, link: write('backprop', shown, LINK_DEFAULTS as never), about, entry: this.run.entry })
  }

  /** Train and watch it. */
  watch(): void {
    if (this.asRun) return void this.handOver()
    this.train()
    this.training.play()
  }

  /** The same training without a run: it is computed while the page is open. A run that only waits is given up. */
  async live(): Promise<void> {
    if (this.run.entry?.status === 'queued' && !(await this.run.remove())) return
    this.state.keep = false
    this.train()
    this.training.play()
  }

  /** As many steps again, from where the training ended. */
  more(): void {
    const checkpoint = this.training.summary?.checkpoint
    const request = this.task && trainingOf(this.definition, this.task, this.start, checkpoint)
    if (!request || !checkpoint) return
    this.state.steps = this.training.number(this.training.last) + (request.steps as number)
    void this.training.read(request)
    this.training.play()
  }

  /** Let the run go on: to its end, or so many steps farther. */
  async goOn(steps?: number): Promise<void> {
    this.training.following = true
    await this.run.resume(steps)
  }

  /** Remove a run of the list; with the one that is shown goes what is shown of it. */
  async remove(id = this.run.id): Promise<void> {
    if (id !== this.run.id) return myRuns.erase(id)
    if (!id || (await this.run.remove())) this.#forget()
  }

  /** Show a run that was started before. */
  #look(id: string): void {
    this.training.clear(this.task ? 2 * recordsOf(this.definition, this.task.inputs) : undefined)
    this.#wanted = this.state.step
    if (!id) return this.run.leave()
    this.state.mode = 'training'
    this.training.following = this.#wanted === 0
    this.run.attach(id)
  }

  /** Show nothing of the training or the run that was shown; the run goes on. `most` records are kept of the next. */
  #forget(most?: number): void {
    this.run.leave()
    this.state.run = ''
    this.#wanted = 0
    this.training.clear(most)
  }

  /** A link that names a step shows that step. */
  async resume(): Promise<void> {
    const step = this.state.step
    const request = this.trainingRequest()
    if (!request) return
    await this.training.read(request)
    this.training.seek(this.training.placeOf(step))
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

  /** Another number of steps is another training. */
  chooseSteps(steps: number): void {
    this.#forget()
    this.state.steps = steps
    this.state.step = 0
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
    if (this.state.mode === 'training') this.#forget()
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
    this.#closed.abort()
    this.#passes.abort()
    this.training.cancel()
    this.run.leave()
  }
}
