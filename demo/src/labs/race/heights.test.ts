import { describe, expect, it } from 'vitest'
import { heightsOf, ticksOf } from './heights'

describe('heights', () => {
  it('are even on a linear scale', () => {
    const heights = heightsOf('linear', -2, 6, [0, 2, 4])
    expect([-2, 0, 2, 6].map(heights.of)).toEqual([0, 0.25, 0.5, 1])
    expect(heights.value(0.5)).toBe(2)
    expect(heights.of(1e9)).toBe(1.2)
    expect(heights.of(NaN)).toBeNaN()
  })

  it('keep their order on a logarithmic scale, and come back', () => {
    const heights = heightsOf('logarithmic', 0, 2500, [1, 10, 100, 1000])
    const values = [0, 0.5, 1, 10, 100, 2500]
    const up = values.map(heights.of)
    expect(up[0]).toBe(0)
    expect(up[5]).toBeCloseTo(1)
    expect([...up].sort((a, b) => a - b)).toEqual(up)
    values.forEach((value, index) => expect(heights.value(up[index]!)).toBeCloseTo(value, 6))
  })

  it('are 0 where nothing rises', () => {
    const heights = heightsOf('linear', 3, 3, [])
    expect(heights.of(3)).toBe(0)
    expect(heights.of(NaN)).toBeNaN()
  })

  it('leave room between ticks', () => {
    const heights = heightsOf('linear', 0, 100, [])
    const levels = Array.from({ length: 21 }, (_, index) => 5 * index)
    expect(ticksOf(heights, levels, 5).length).toBeLessThanOrEqual(6)
  })
})
