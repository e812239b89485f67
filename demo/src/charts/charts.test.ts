import { describe, expect, it } from 'vitest'
import { contourLines, inside, pathOf } from './contour'
import { extent } from './heat'
import { between, heights, rgb, symlog } from './ramp'
import { bounds, powers, thinned, tickText, type Series } from './series'

const grid = (size: number, f: (x: number, y: number) => number): number[][] =>
  Array.from({ length: size }, (_, row) => Array.from({ length: size }, (_, column) => f((4 * column) / (size - 1) - 2, (4 * row) / (size - 1) - 2)))
const BOX = { x: [-2, 2], y: [-2, 2] } as const

describe('contours', () => {
  it('lie where the function has their level', () => {
    const [found] = contourLines(grid(81, (x, y) => x * x + 2 * y * y), [1], BOX)
    expect(found!.lines).toHaveLength(1)
    for (const [x, y] of found!.lines[0]!) expect(x * x + 2 * y * y).toBeCloseTo(1, 2)
  })
  it('do not run along the border', () => {
    const [found] = contourLines(grid(41, (x) => x), [0.5], BOX)
    expect(found!.lines).toHaveLength(1)
    for (const [x] of found!.lines[0]!) expect(x).toBeCloseTo(0.5, 6)
  })
  it('stand holes', () => {
    expect(() => contourLines([[1, null], [null, 2]], [1.5], BOX)).not.toThrow()
    expect(contourLines([], [1], BOX)).toEqual([])
  })
  it('are cut at the border', () => {
    expect(inside([[0, 0], [3, 0], [3, 3], [2, 2], [0, 0]], 10, 10)).toEqual([[[3, 0], [3, 3], [2, 2], [0, 0]]])
  })
  it('become paths', () => {
    expect(pathOf([[[0, 0], [1, 2]]], (x) => 10 * x, (y) => -y)).toBe('M0.0,0.0L10.0,-2.0')
  })
})

describe('lines', () => {
  const series = (points: Series['points']): Series => ({ name: 'a', colour: 'red', points })
  it('have bounds of what can be drawn', () => {
    expect(bounds([series([[0, 1], [5, null], [3, -2]])], false)).toEqual({ x: [0, 3], y: [-2, 1] })
    expect(bounds([series([[0, 1], [1, 0], [2, 10]])], true)).toEqual({ x: [0, 2], y: [1, 10] })
    expect(bounds([series([])], false)).toBeUndefined()
    expect(bounds([series([[1, 2]])], false)).toEqual({ x: [1, 2], y: [1, 3] })
  })
  it('keep their peaks and their ends when they are thinned', () => {
    const points = Array.from({ length: 10_000 }, (_, x) => [x, x === 4321 ? 99 : Math.sin(x / 500)] as const)
    const kept = thinned(points, 200)
    expect(kept.length).toBeLessThan(260)
    expect(kept).toContain(points[4321])
    expect(kept.at(-1)).toBe(points.at(-1))
    expect(thinned(points.slice(0, 10), 200)).toHaveLength(10)
  })
  it('have ticks at powers of ten', () => {
    expect(powers(0.5, 2000, 10)).toEqual([1, 10, 100, 1000])
    expect(powers(1e-12, 1, 4).length).toBeLessThanOrEqual(4)
    expect([1e-4, 0.01, 200, -3, 2.5e7].map(tickText)).toEqual(['1e−4', '0.01', '200', '−3', '2.5e7'])
  })
})

describe('colours', () => {
  it('go through their stops', () => {
    const ramp = between([rgb('#000'), rgb('#ffffff'), rgb('#ff0000')])
    expect([ramp(-1), ramp(0.25), ramp(0.5), ramp(2)]).toEqual([[0, 0, 0], [128, 128, 128], [255, 255, 255], [255, 0, 0]])
  })
  it('of heights get lighter with height', () => {
    const ramp = heights('#ffffff')
    const light = [0, 0.25, 0.5, 0.75, 1].map((t) => ramp(t).reduce((a, b) => a + b))
    expect(light).toEqual([...light].sort((a, b) => a - b))
  })
  it('of signs are symmetric', () => {
    expect(symlog(0, 5)).toBe(0)
    expect(symlog(5, 5)).toBeCloseTo(1)
    expect(symlog(-2, 5)).toBeCloseTo(-symlog(2, 5))
    expect(symlog(1, 0)).toBe(0)
  })
})

it('finds the least and the greatest number', () => {
  expect(extent([[3, null], [NaN, -1]])).toEqual([-1, 3])
  expect(extent([[null]])).toEqual([0, 0])
})
