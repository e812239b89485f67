/**
 * Asks about what is newest, one request at a time. While something moves, a running request is let finish, so that the
 * picture moves along; otherwise it is aborted when something newer is wanted.
 */
export class Follower<Q, A> {
  #running: AbortController | undefined
  #next: Q | undefined
  readonly #run: (question: Q, signal: AbortSignal) => Promise<A>
  readonly #done: (answer: A, question: Q) => void
  readonly #failed: (error: unknown, question: Q) => void
  /** Milliseconds between two requests while something moves: the drawing of steps comes first. */
  readonly #rest: number
  #waiting: ReturnType<typeof setTimeout> | undefined

  constructor(
    run: (question: Q, signal: AbortSignal) => Promise<A>,
    done: (answer: A, question: Q) => void,
    failed: (error: unknown, question: Q) => void,
    rest = 0,
  ) {
    this.#rest = rest
    this.#run = run
    this.#done = done
    this.#failed = failed
  }

  want(question: Q, moving = false): void {
    if ((this.#running || this.#waiting !== undefined) && moving) {
      this.#next = question
      return
    }
    this.abort()
    void this.#ask(question)
  }

  abort(): void {
    this.#running?.abort()
    this.#running = undefined
    this.#next = undefined
    clearTimeout(this.#waiting)
    this.#waiting = undefined
  }

  async #ask(question: Q): Promise<void> {
    const mine = (this.#running = new AbortController())
    try {
      const answer = await this.#run(question, mine.signal)
      if (!mine.signal.aborted) this.#done(answer, question)
    } catch (error) {
      if (!mine.signal.aborted) this.#failed(error, question)
    }
    if (this.#running !== mine) return
    this.#running = undefined
    this.#waiting = setTimeout(() => {
      this.#waiting = undefined
      const next = this.#next
      this.#next = undefined
      if (next !== undefined) void this.#ask(next)
    }, this.#rest)
  }
}
