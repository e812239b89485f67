/**
 * A training as it arrives, and the clock that goes through its records. One that is streamed is kept whole; of a long
 * run there are every so many steps.
 */
import { stream } from '../../api/stream'
import { asProblem, isAbort, type Problem } from '../../api/problem'
import { Kept } from '../../runs/kept'
import type { RunLine } from '../../runs/service'
import { Timeline } from '../../stage/timeline.svelte'
import type { Tree } from './parameters'

export interface TrainingStep {
  step: number
  epoch: number
  loss: number | null
  learning_rate: number
  gradient_norm: number | null
  validation_loss?: number | null
  batch?: number[]
  gradients: Tree
  updates: Tree
  parameters: Tree
  state: Record<string, Tree | number | null>
}

export interface Summary {
  status: 'completed' | 'stopped' | 'diverged' | 'cancelled'
  reason: string
  steps_done: number
  loss: number | null
  validation_loss?: number | null
  parameters: Tree
  checkpoint?: unknown
}

/** Records drawn in a second at speed 1. */
const RATE = 60

export class Training extends Timeline {
  /** The records in order: of every step, or of every so many. */
  steps = $state.raw<TrainingStep[]>([])
  summary = $state.raw<Summary>()
  problem = $state.raw<Problem>()
  running = $state(false)
  /** Whether the newest record is shown as it arrives. */
  following = $state(false)
  /** Whether what is shown changes by itself. */
  readonly moving = $derived(this.playing || (this.following && this.open))
  /** Starts the stream when steps are wanted and there are none. */
  start: () => void = () => undefined
  #stream: AbortController | undefined
  #kept = new Kept<TrainingStep>(Infinity)
  #frame = 0

  constructor() {
    super()
    this.rate = RATE
  }

  /** The step of the training that a record tells of. */
  override number(at: number): number {
    return at > 0 ? (this.steps[at - 1]?.step ?? at) : 0
  }

  override play(): void {
    if (this.steps.length === 0 && !this.running) this.start()
    this.following = false
    super.play()
  }

  override pause(): void {
    this.following = false
    super.pause()
  }

  override step(): void {
    if (this.steps.length === 0 && !this.running) this.start()
    this.following = false
    super.step()
  }

  override back(): void {
    this.following = false
    super.back()
  }

  override seek(at: number): void {
    this.following = false
    super.seek(at)
  }

  override end(): void {
    super.end()
    this.following = this.open
  }

  /** The place of the last record that is not after a step. */
  placeOf(step: number): number {
    let [low, high] = [0, this.steps.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.steps[middle]!.step <= step) low = middle + 1
      else high = middle
    }
    return low
  }

  /** The loss of the training at the parameters of a record: the next step tells it, at the end the summary. */
  lossAt(at: number): number | null | undefined {
    const step = this.number(at)
    const next = this.steps[at]
    if (next) return next.step === step + 1 ? next.loss : undefined
    return this.summary && this.summary.status !== 'diverged' && step === this.summary.steps_done ? this.summary.loss : undefined
  }

  /** Forget the trace: what it was made of has changed. `most` records are kept of what comes next. */
  clear(most = Infinity): void {
    this.#stream?.abort()
    this.#stream = undefined
    this.#kept = new Kept(most)
    this.running = this.open = this.following = false
    this.summary = undefined
    this.problem = undefined
    this.#show()
    this.reset()
  }

  cancel(): void {
    this.#stream?.abort()
  }

  /** Read a stream to its end. Steps of an earlier part stay, and those of the stream follow them. */
  async read(body: Record<string, unknown>): Promise<void> {
    this.#stream?.abort()
    const mine = (this.#stream = new AbortController())
    let problem: Problem | undefined
    this.begin()
    try {
      for await (const line of stream('/v1/train', body as never, { signal: mine.signal, panel: 'backprop.train' })) {
        if (mine.signal.aborted) break
        this.take(line as never)
      }
    } catch (error) {
      if (!isAbort(error) && !mine.signal.aborted) problem = asProblem(error)
    }
    if (this.#stream === mine) this.done(problem)
  }

  /** More lines come from now on. Gives the step after which they are wanted. */
  begin(): number {
    this.running = this.open = true
    this.problem = this.summary = undefined
    return this.#kept.last
  }

  take(line: RunLine<TrainingStep>): void {
    if ('step' in line) this.#kept.add(line)
    else this.summary = line as Summary
    // Lines come faster than frames: the page is told of them once a frame, and reading never waits for it.
    this.#frame ||= requestAnimationFrame(() => this.#show())
  }

  /** No more lines come. */
  done(problem?: Problem): void {
    this.#show()
    this.problem = problem
    this.running = this.open = this.following = false
  }

  #show(): void {
    cancelAnimationFrame(this.#frame)
    this.#frame = 0
    const before = this.number(this.at)
    this.steps = this.#kept.list()
    const done = this.summary?.status === 'diverged' ? this.summary.steps_done : Infinity
    // The last line of a diverged training tells of a step that was not made.
    this.last = this.placeOf(done)
    if (this.following) this.position = this.last
    else if (this.number(this.at) !== before) this.position = this.placeOf(before) // some records were left out
  }
}
