/** A training as it arrives over one stream, kept whole, and the clock that goes through its steps. */
import { stream } from '../../api/stream'
import { asProblem, isAbort, type Problem } from '../../api/problem'
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

/** Steps drawn in a second at speed 1. */
const RATE = 60

export class Training extends Timeline {
  /** Every step in order; none is left out. */
  steps = $state.raw<TrainingStep[]>([])
  summary = $state.raw<Summary>()
  problem = $state.raw<Problem>()
  running = $state(false)
  /** Starts the stream when steps are wanted and there are none. */
  start: () => void = () => undefined
  #stream: AbortController | undefined

  constructor() {
    super()
    this.rate = RATE
  }

  override play(): void {
    if (this.steps.length === 0 && !this.running) this.start()
    super.play()
  }

  override step(): void {
    if (this.steps.length === 0 && !this.running) this.start()
    super.step()
  }

  /** The loss of the training at the parameters after so many steps: the next step tells it, at the end the summary. */
  lossAt(step: number): number | null | undefined {
    const next = this.steps[step]
    if (next) return next.loss
    return this.summary && this.summary.status !== 'diverged' && step === this.summary.steps_done ? this.summary.loss : undefined
  }

  /** Forget the trace: what it was made of has changed. */
  clear(): void {
    this.#stream?.abort()
    this.#stream = undefined
    this.running = false
    this.open = false
    this.steps = []
    this.summary = undefined
    this.problem = undefined
    this.last = 0
    this.reset()
  }

  cancel(): void {
    this.#stream?.abort()
  }

  /** Read a stream to its end. Steps of an earlier part stay, and those of the stream follow them. */
  async read(body: Record<string, unknown>): Promise<void> {
    this.#stream?.abort()
    const mine = (this.#stream = new AbortController())
    const steps = [...this.steps]
    this.running = this.open = true
    this.problem = undefined
    let frame = 0
    const show = (): void => {
      this.steps = steps.slice()
      // The last line of a diverged training tells of a step that was not made.
      this.last = this.summary ? Math.min(steps.length, this.summary.steps_done) : steps.length
    }
    try {
      for await (const line of stream('/v1/train', body as never, { signal: mine.signal, panel: 'backprop.train' })) {
        if ('status' in line) this.summary = line as unknown as Summary
        else if ('step' in line) {
          steps.push(line as unknown as TrainingStep)
          // Lines come faster than frames: the page is told of them once a frame, and reading never waits for it.
          frame ||= requestAnimationFrame(() => {
            frame = 0
            if (this.#stream === mine) show()
          })
        }
      }
    } catch (error) {
      if (!isAbort(error) && !mine.signal.aborted) this.problem = asProblem(error)
    }
    cancelAnimationFrame(frame)
    if (this.#stream !== mine) return
    show()
    this.running = this.open = false
  }
}
