/** Where a lab is between its first step and its last, and the clock that moves it. */

import { motion } from './theme.svelte'

export class Timeline {
  /** Index of the last step; it may grow while a stream arrives. */
  last = $state(0)
  /** Where the lab is: a step, or a place between two while it moves. */
  position = $state(0)
  playing = $state(false)
  speed = $state(1)
  /** Steps a second at speed 1. */
  rate = $state(30)
  /** Whether more steps will come: then playing waits at the last one instead of ending. */
  open = $state(false)
  /** Milliseconds in which `step` and `back` glide to the next step; 0 jumps. */
  glide = $state(0)
  /** What a step is, in words, for the scrubber and screen readers. */
  say = $state<((step: number) => string) | undefined>(undefined)

  /** The whole step that is reached. */
  at = $derived(Math.min(this.last, Math.floor(this.position + 1e-9)))

  #frame = 0
  #before = 0
  /** Where a glide ends. */
  #target: number | undefined

  /** The number by which a step is called: its own, unless only some of the steps are there. */
  number(at: number): number {
    return at
  }

  reset(): void {
    this.pause()
    this.position = 0
  }

  /** To the end of what there is. */
  end(): void {
    this.pause()
    this.position = this.last
  }

  play(): void {
    this.#target = undefined
    if (this.position >= this.last && !this.open) this.position = 0
    if (this.last === 0 && !this.open) return
    this.playing = true
    this.#run()
  }

  pause(): void {
    this.playing = false
    this.#target = undefined
    this.position = this.at
  }

  toggle(): void {
    if (this.playing) this.pause()
    else this.play()
  }

  step(): void {
    this.#goto(Math.min(this.last, (this.#target ?? this.at) + 1))
  }

  back(): void {
    const from = this.#target ?? this.position
    this.#goto(Math.max(0, Math.ceil(from - 1e-9) - 1))
  }

  /** To a step, at once. */
  seek(step: number): void {
    this.playing = false
    this.#target = undefined
    this.position = Math.min(this.last, Math.max(0, step))
  }

  /** Let so many seconds pass. Gives whether anything still moves. */
  advance(seconds: number): boolean {
    if (this.#target !== undefined) {
      const distance = (seconds * 1000) / Math.max(1, this.glide)
      const left = this.#target - this.position
      this.position = Math.abs(left) <= distance ? this.#target : this.position + Math.sign(left) * distance
      if (this.position === this.#target) this.#target = undefined
      return this.#target !== undefined
    }
    if (!this.playing) return false
    this.position = Math.min(this.last, this.position + seconds * this.rate * this.speed)
    if (this.position >= this.last && !this.open) this.playing = false
    return this.playing
  }

  /** Where the lab draws: under reduced motion only whole steps. */
  get shown(): number {
    return motion.reduced ? this.at : this.position
  }

  /** Stop the clock; the Shell calls it when its lab is closed. */
  stop(): void {
    this.playing = false
    this.#target = undefined
    if (this.#frame) cancelAnimationFrame(this.#frame)
    this.#frame = 0
  }

  #goto(step: number): void {
    this.playing = false
    if (this.glide <= 0 || motion.reduced) {
      this.#target = undefined
      this.position = step
      return
    }
    this.#target = step
    this.#run()
  }

  #run(): void {
    if (this.#frame) return
    this.#before = performance.now()
    const tick = (now: number): void => {
      const seconds = Math.min(0.1, (now - this.#before) / 1000) // a hidden tab must not leap
      this.#before = now
      this.#frame = this.advance(Math.max(0, seconds)) ? requestAnimationFrame(tick) : 0
    }
    this.#frame = requestAnimationFrame(tick)
  }
}
