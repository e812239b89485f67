import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { motion } from './theme.svelte'
import { Timeline } from './timeline.svelte'

let frames: ((now: number) => void)[] = []
beforeEach(() => {
  frames = []
  vi.stubGlobal('requestAnimationFrame', (frame: (now: number) => void) => frames.push(frame))
  vi.stubGlobal('cancelAnimationFrame', () => (frames = []))
})
afterEach(() => {
  vi.unstubAllGlobals()
  motion.reduced = false
})

function made(last = 10): Timeline {
  const timeline = new Timeline()
  timeline.last = last
  timeline.rate = 10
  return timeline
}

describe('a timeline', () => {
  it('plays at its rate and stops at the end', () => {
    const timeline = made()
    timeline.play()
    timeline.advance(0.25)
    expect([timeline.position, timeline.at, timeline.playing]).toEqual([2.5, 2, true])
    timeline.speed = 2
    timeline.advance(0.25)
    expect(timeline.position).toBe(7.5)
    expect(timeline.advance(1)).toBe(false)
    expect([timeline.position, timeline.playing]).toEqual([10, false])
  })

  it('plays from the start when it is at the end', () => {
    const timeline = made()
    timeline.seek(10)
    timeline.play()
    expect([timeline.position, timeline.playing]).toEqual([0, true])
  })

  it('waits at the end for what is still to come', () => {
    const timeline = made(2)
    timeline.open = true
    timeline.play()
    timeline.advance(1)
    expect([timeline.position, timeline.playing]).toEqual([2, true])
    timeline.last = 20
    timeline.advance(0.5)
    expect(timeline.position).toBe(7)
    timeline.open = false
    timeline.advance(9)
    expect(timeline.playing).toBe(false)
  })

  it('steps and steps back by whole steps, within its bounds', () => {
    const timeline = made(2)
    timeline.play()
    timeline.advance(0.15)
    timeline.back()
    expect([timeline.position, timeline.playing]).toEqual([1, false])
    timeline.back()
    timeline.back()
    expect(timeline.position).toBe(0)
    for (let count = 0; count < 5; count++) timeline.step()
    expect(timeline.position).toBe(2)
    timeline.seek(99)
    expect(timeline.position).toBe(2)
    timeline.seek(-1)
    expect(timeline.position).toBe(0)
  })

  it('glides to a step in the time it is given, and steps twice while it glides', () => {
    const timeline = made()
    timeline.glide = 400
    timeline.step()
    timeline.advance(0.1)
    expect(timeline.position).toBeCloseTo(0.25)
    timeline.step()
    timeline.advance(0.2)
    expect(timeline.position).toBeCloseTo(0.75)
    expect(timeline.advance(1)).toBe(false)
    expect(timeline.position).toBe(2)
  })

  it('jumps where motion is not wanted', () => {
    const timeline = made()
    timeline.glide = 400
    motion.reduced = true
    timeline.step()
    expect(timeline.position).toBe(1)
    timeline.play()
    timeline.advance(0.05)
    expect(timeline.shown).toBe(1)
  })

  it('moves on animation frames, and none waits when nothing moves', () => {
    const timeline = made()
    timeline.play()
    expect(frames).toHaveLength(1)
    timeline.play()
    expect(frames).toHaveLength(1)
    timeline.pause()
    frames.shift()!(performance.now() + 16)
    expect(frames).toHaveLength(0)
  })

  it('does not leap after a pause of the browser', () => {
    const timeline = made(1000)
    timeline.play()
    frames.shift()!(performance.now() + 60_000)
    expect(timeline.position).toBeLessThanOrEqual(1)
  })

  it('pauses on a whole step', () => {
    const timeline = made()
    timeline.play()
    timeline.advance(0.25)
    timeline.pause()
    expect(timeline.position).toBe(2)
  })
})
