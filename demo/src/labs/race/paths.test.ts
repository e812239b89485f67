import { describe, expect, it } from 'vitest'
import { entryAt, packPaths, partOf, placeAt, slowed, textureOf, type Run } from './paths'

function run(path: (number | null)[][], values: (number | null)[], steps_done: number, status = 'completed'): Run {
  return {
    optimizer: 0,
    start: 0,
    status,
    reason: '',
    steps_done,
    point: path.at(-1)!,
    value: values.at(-1)!,
    norm: 0,
    valley: null,
    basin: null,
    path,
    values,
  }
}

describe('ways', () => {
  const told = [0, 2, 4, 5]
  const whole = run(
    [
      [0, 0],
      [2, 4],
      [4, 8],
      [5, 9],
    ],
    [8, 4, 2, 1],
    5,
  )
  const early = run(
    [
      [1, 1],
      [3, 3],
      [9, null],
    ],
    [1, 2, null],
    3,
    'diverged',
  )
  const paths = packPaths([whole, early], told, 2)

  it('go in a line between the places told', () => {
    expect(placeAt(paths, 0, 0)).toEqual({ x: 0, y: 0, value: 8 })
    expect(placeAt(paths, 0, 3)).toEqual({ x: 3, y: 6, value: 3 })
    expect(placeAt(paths, 0, 4.5)).toEqual({ x: 4.5, y: 8.5, value: 1.5 })
    expect(placeAt(paths, 0, 99)).toEqual({ x: 5, y: 9, value: 1 })
  })

  it('end between two places told', () => {
    expect(placeAt(paths, 1, 2)).toEqual({ x: 3, y: 3, value: 2 })
    expect(placeAt(paths, 1, 3).x).toBe(9)
    expect(placeAt(paths, 1, 5).x).toBe(9)
    expect(placeAt(paths, 1, 5).y).toBeGreaterThan(1e17)
    expect([...paths.diverged]).toEqual([0, 1])
  })

  it('have one place where there is one step only', () => {
    const still = packPaths([run([[7]], [1], 0)], [0], 1)
    expect(placeAt(still, 0, 0.5)).toEqual({ x: 7, y: 0, value: 1 })
  })

  it('find the entry of a time', () => {
    expect([0, 1.9, 2, 4.5, 50].map((time) => entryAt(paths, time))).toEqual([0, 0, 1, 2, 3])
  })

  it('become a texture in the units of the scene', () => {
    const texture = textureOf(
      paths,
      (x, y) => [x / 10, y / 10],
      (value) => value * 2,
    )
    expect([...texture.slice(4, 8)]).toEqual([Math.fround(0.2), Math.fround(0.4), 8, 2])
    expect(texture.every(Number.isFinite)).toBe(true)
  })

  it('stand for three quarters of a step in slow motion', () => {
    expect([3, 3.5, 3.75, 3.875, 4].map(slowed)).toEqual([3, 3, 3, 3.5, 4])
    expect([3, 3.3, 3.6, 3.9].map(partOf)).toEqual([0, 1, 2, 3])
  })
})
