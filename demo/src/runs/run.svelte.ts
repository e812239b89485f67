/** One run: how it stands, asked once a second until it ends, and its records, which go where `take` puts them. */
import { asProblem, isAbort, type Problem } from '../api/problem'
import { follow, passes, rest, seen } from './follow'
import { myRuns } from './mine.svelte'
import { cancelRun, createRun, newKey, readQueue, readRun, recordsOf, removeRun, resumeRun, type Queue, type RunEntry, type RunLine } from './service'
import { hasEnded } from './words'

/** Seconds between two questions, and the longest pause after one that was not answered. */
const EVERY = 1
const LONGEST = 8
/** Seconds after which it is said why a run still waits. */
const PATIENCE = 4
/** How often a run is handed over if no answer comes. */
const ATTEMPTS = 4

export interface Taker<R> {
  /** Called before records arrive; those after this step are wanted. */
  begin(): number
  take(line: RunLine<R>): void
  /** No more will come: the run ended, or it is no longer followed. */
  done(): void
}

export class Run<R extends { step: number }> {
  id = $state('')
  entry = $state.raw<RunEntry>()
  problem = $state.raw<Problem>()
  /** Whether the service does not answer; the run may go on all the same. */
  lost = $state(false)
  /** A request about the run is on its way. */
  busy = $state(false)
  /** It was asked to stop, and has not yet. */
  stopping = $state(false)
  /** Told once the run has waited for a while. */
  queue = $state.raw<Queue>()
  /** Whether the run has waited for a while. */
  late = $state(false)
  readonly ended = $derived(this.entry !== undefined && hasEnded(this.entry))
  readonly #taker: Taker<R>
  readonly #panel: string
  #following: AbortController | undefined

  constructor(taker: Taker<R>, panel: string) {
    this.#taker = taker
    this.#panel = panel
  }

  /** Hand a request over and follow it. Gives whether the service took it. */
  async start(request: unknown, panel: string): Promise<boolean> {
    this.leave()
    const mine = (this.#following = new AbortController())
    const key = newKey() // so that a second attempt does not make a second run
    this.busy = true
    try {
      for (let attempt = 1; ; attempt += 1) {
        try {
          const entry = await createRun(request, key, { panel, signal: mine.signal })
          if (mine.signal.aborted) return false
          this.#show(entry)
          this.id = entry.id
          this.#follow(mine)
          return true
        } catch (error) {
          if (attempt === ATTEMPTS || mine.signal.aborted || asProblem(error).status !== 0) throw error
          this.lost = true
          await rest(attempt, mine.signal)
        }
      }
    } catch (error) {
      if (!mine.signal.aborted) this.problem = asProblem(error)
      return false
    } finally {
      if (this.#following === mine) this.busy = this.lost = false
    }
  }

  /** Follow a run that was started before. */
  attach(id: string): void {
    this.leave()
    this.id = id
    this.#follow((this.#following = new AbortController()))
  }

  /** Look at it no longer; it goes on. */
  leave(): void {
    this.#following?.abort()
    this.#following = undefined
    this.id = ''
    this.entry = this.problem = this.queue = undefined
    this.lost = this.busy = this.late = this.stopping = false
  }

  async stop(): Promise<void> {
    this.stopping = true
    await this.#change(() => cancelRun(this.id))
    if (this.problem) this.stopping = false
  }

  /** Go on to its end, or so many steps farther. */
  async resume(steps?: number): Promise<void> {
    await this.#change(() => resumeRun(this.id, steps))
    if (!this.problem && this.entry && !this.ended) {
      this.#following?.abort()
      this.#follow((this.#following = new AbortController()))
    }
  }

  /** Remove it from the service. Gives whether that was done. */
  async remove(): Promise<boolean> {
    const { id } = this
    await this.#change(() => removeRun(id))
    if (this.problem && this.problem.status !== 404) return false
    myRuns.remove(id)
    if (this.id === id) this.leave()
    return true
  }

  async #change(request: () => Promise<RunEntry | void>): Promise<void> {
    const { id } = this
    this.busy = true
    try {
      const entry = await request()
      if (this.id !== id) return
      this.problem = undefined
      if (entry) this.#show({ ...this.entry, ...entry })
    } catch (error) {
      if (this.id === id) this.problem = asProblem(error)
    }
    if (this.id === id) this.busy = false
  }

  #show(entry: RunEntry): void {
    this.entry = entry
    if (hasEnded(entry)) this.stopping = false
    myRuns.note(entry)
  }

  #follow(mine: AbortController): void {
    this.late = false
    this.queue = undefined
    const after = this.#taker.begin()
    void this.#read(mine.signal, after).finally(() => mine.abort())
    void this.#watch(mine.signal)
  }

  async #read(signal: AbortSignal, after: number): Promise<void> {
    const id = this.id
    const open = (from: number, until: AbortSignal, alive: () => void): AsyncIterable<RunLine<R>> =>
      recordsOf<R>(id, from, { signal: until, panel: this.#panel }, alive)
    let problem: Problem | undefined
    try {
      for await (const line of follow<R>(open, after, { signal, onlost: (lost) => (this.lost = lost) })) {
        if (signal.aborted) return
        this.#taker.take(line)
        // A new record is the first sign that somebody computes it.
        if ('step' in line && this.entry?.status === 'queued' && line.step > this.entry.step) this.#show({ ...this.entry, status: 'running', step: line.step })
      }
    } catch (error) {
      problem = asProblem(error)
    }
    if (signal.aborted || this.id !== id) return
    // How it ended is told by the run itself; where even that is not known, by what went wrong.
    try {
      const entry = await readRun(id, { signal })
      if (this.id !== id) return
      this.#show(entry)
      if (!hasEnded(entry)) this.problem = problem
    } catch (error) {
      if (this.id !== id || isAbort(error)) return
      this.problem = problem ?? asProblem(error)
    }
    this.lost = false
    this.#taker.done()
  }

  /** Ask how it stands until it is no longer followed. */
  async #watch(signal: AbortSignal): Promise<void> {
    let waited = 0
    let failures = 0
    for (;;) {
      await seen(signal)
      if (signal.aborted) return
      try {
        const entry = await readRun(this.id, { signal })
        if (signal.aborted) return
        this.#show(entry)
        failures = 0
        waited = entry.status === 'queued' ? waited + EVERY : 0
        this.late = waited > PATIENCE
        if (this.late) this.queue = await readQueue({ signal })
        if (hasEnded(entry)) return
      } catch (error) {
        if (signal.aborted || !passes(error)) return // the reading of records tells the same
        failures += 1
      }
      await rest(Math.min(LONGEST, EVERY * 2 ** failures), signal)
    }
  }
}
