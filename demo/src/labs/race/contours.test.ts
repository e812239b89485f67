import { describe, expect, it } from 'vitest'
import { contoursOf, gridOf, sample } from './contours'

function rows(f: (x: number, y: number) => number, low: number, high: number, count: number): number[][] {
  const at = (index: number): number => low + ((high - low) * index) / (count - 1)
  return Array.from({ length: count }, (_, j) => Array.from({ length: count }, (_, i) => f(at(i), at(j))))
}

describe('contours', () => {
  it('of a bowl are circles, closed', () => {
    const grid = gridOf(
      rows((x, y) => x * x + y * y, -2, 2, 81),
      [-2, 2],
      [-2, 2],
    )
    const [ring] = contoursOf(grid, [1])
    expect(ring!.lines).toHaveLength(1)
    const line = ring!.lines[0]!
    for (let at = 0; at < line.length; at += 2) expect(Math.hypot(line[at]!, line[at + 1]!)).toBeCloseTo(1, 2)
    expect(line.slice(0, 2)).toEqual(line.slice(-2))
  })

  it('that leave the picture are open, without a part along the border', () => {
    const grid = gridOf(
      rows((x) => x, -2, 2, 41),
      [-2, 2],
      [-2, 2],
    )
    const [contour] = contoursOf(grid, [0.5])
    const places = contour!.lines.flat()
    expect(contour!.lines).toHaveLength(1)
    for (let at = 0; at < places.length; at += 2) expect(places[at]).toBeCloseTo(0.5, 6)
  })
})

describe('a grid', () => {
  it('is linear between its places and has no value in gaps', () => {
    const grid = gridOf(
      [
        [0, 2],
        [4, 6],
      ],
      [0, 1],
      [0, 1],
    )
    expect(sample(grid, 0.5, 0.5)).toBe(3)
    expect(sample(grid, 1, 1)).toBe(6)
    expect(sample(grid, 1.01, 0)).toBeNaN()
    expect(
      sample(
        gridOf(
          [
            [0, null],
            [4, 6],
          ],
          [0, 1],
          [0, 1],
        ),
        0.5,
        0.5,
      ),
    ).toBeNaN()
  })
})
