import { describe, expect, it } from 'vitest'
import type { Run } from './paths'
import { directed, isSquare, stepOf } from './step'

const run: Run = {
  optimizer: 0,
  start: 0,
  status: 'stopped',
  reason: '',
  steps_done: 3,
  point: [0.1],
  value: 0.01,
  norm: 0,
  valley: null,
  basin: null,
  path: [[4], [2], [0.1]],
  values: [16, 4, 0.01],
  gradients: [[8], [4], [0.2]],
  state: { first_moment: [[0], [-0.8], [-1]], corrected_first_moment: [[0], [8], [6]], second_moment: [[0], [1], [2]] },
}

describe('a step', () => {
  it('has its gradient before, its memory before and after, and where it leads', () => {
    expect(stepOf(run, [0, 2], 1)).toEqual({
      from: 0,
      to: 2,
      point: [4],
      value: 16,
      gradient: [8],
      memory: [
        { name: 'first_moment', before: [0], after: [-0.8] },
        { name: 'second_moment', before: [0], after: [1] },
      ],
      corrected: [{ name: 'first_moment', before: [0], after: [8] }],
      next: [2],
      nextValue: 4,
    })
  })

  it('may end between two places told, and there is none after the end', () => {
    expect(stepOf(run, [0, 2], 2)).toMatchObject({ from: 2, to: 3, next: [0.1] })
    expect(stepOf(run, [0, 2], 3)).toBeNull()
    const { gradients: _, ...untold } = run
    expect(stepOf(untold, [0, 2], 0)).toBeNull()
  })

  it('knows a velocity from a mean of squares', () => {
    expect(directed(run)?.name).toBe('first_moment')
    expect(['second_moment', 'accumulator', 'mean_square', 'velocity'].map(isSquare)).toEqual([true, true, true, false])
  })
})
