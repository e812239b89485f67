import { describe, expect, it } from 'vitest'
import { gridOf } from './contours'
import { packPaths } from './paths'
import { piecesOf } from './ribbons'

const shape = {
  place: (x: number, y: number): [number, number] => [x, y],
  height: (value: number) => value,
  tall: 1,
  lift: 0,
}
const run = (path: number[][], values: number[]) => ({
  optimizer: 0,
  start: 0,
  status: 'completed',
  reason: '',
  steps_done: path.length - 1,
  point: path.at(-1)!,
  value: 0,
  norm: 0,
  valley: null,
  basin: null,
  path,
  values,
})

describe('trails in the scene', () => {
  const hill = gridOf(
    [
      [0, 1, 0],
      [0, 1, 0],
      [0, 1, 0],
    ],
    [0, 1],
    [0, 1],
  )

  it('go over a hill that the straight way leads through', () => {
    const pieces = piecesOf(
      packPaths(
        [
          run(
            [
              [0, 0.5],
              [1, 0.5],
            ],
            [0, 0],
          ),
        ],
        [0, 1],
        1,
      ),
      hill,
      shape,
    )
    expect(pieces.count).toBe(20)
    const heights = Array.from({ length: pieces.count }, (_, index) => pieces.to[4 * index + 2]!)
    expect(Math.max(...heights)).toBeCloseTo(1)
    expect([...pieces.from.slice(0, 4)]).toEqual([0, 0.5, 0, 0])
    expect(pieces.to[4 * 19 + 3]).toBe(1)
    expect(pieces.along[19]).toBeGreaterThan(1.5)
  })

  it('stay straight above a valley, and end where a run ends', () => {
    const paths = packPaths(
      [
        run(
          [
            [0, 0.5],
            [0.04, 0.5],
          ],
          [5, 5],
        ),
      ],
      [0, 1, 2],
      1,
    )
    const pieces = piecesOf(paths, hill, shape)
    expect(pieces.count).toBe(1)
    expect(pieces.to[2]).toBe(5)
  })
})
