import { describe, expect, it } from 'vitest'
import {
  DEFAULTS,
  basinsBody,
  cutOf,
  descendBody,
  fitPoint,
  runCount,
  surfaceBody,
  tellEvery,
  tellsState,
} from './state'

describe('requests of the race', () => {
  it('tells every step of a few balls, with gradients and states', () => {
    expect(descendBody(DEFAULTS)).toMatchObject({
      starts: [[0, -3]],
      steps: 150,
      trace: { every: 1, include: ['gradients', 'state'] },
    })
    expect(tellsState(DEFAULTS)).toBe(true)
  })

  it('thins the ways of many balls', () => {
    const many = { ...DEFAULTS, starts: 'grid' as const, side: 20 }
    expect(runCount(many)).toBe(1600)
    expect(descendBody(many)).toMatchObject({
      starts: { grid: { box: DEFAULTS.box, resolution: 20 } },
      trace: { every: 3 },
    })
    for (const runs of [1, 7, 400, 1600, 2400]) {
      for (const steps of [1, 150, 5_000]) expect((runs * steps) / tellEvery(runs, steps)).toBeLessThanOrEqual(80_000)
    }
  })

  it('adds noise, schedule and clip where they are asked for', () => {
    expect(descendBody(DEFAULTS)).not.toHaveProperty('noise')
    const noisy = { ...DEFAULTS, noise: 0.5, noiseSeed: 3, clip: 2, schedule: { type: 'cosine', decay_steps: 9 } }
    expect(descendBody(noisy)).toMatchObject({
      noise: { scale: 0.5, seed: 3 },
      clip: { norm: 2 },
      schedule: { type: 'cosine', decay_steps: 9 },
    })
    expect(basinsBody(noisy, 3, 40)).toMatchObject({
      basins: true,
      optimizer: { type: 'adam' },
      clip: { norm: 2 },
      resolution: 40,
    })
  })

  it('cuts functions of more variables at the start', () => {
    const three = {
      ...DEFAULTS,
      variables: ['x', 'y', 'z'],
      box: [DEFAULTS.box[0]!, DEFAULTS.box[0]!, [0, 4]] as [number, number][],
      points: [[1, 2, 3]],
    }
    expect(surfaceBody(three)).toMatchObject({ axes: ['x', 'y'], at: { z: 3 } })
    expect(cutOf({ ...three, starts: 'grid' })).toEqual({ z: 2 })
    expect(surfaceBody({ ...DEFAULTS, variables: ['x'], box: [[0, 1]] })).not.toHaveProperty('y')
  })

  it('keeps what it can of a start', () => {
    expect(
      fitPoint(
        [1, 9],
        [
          [0, 2],
          [0, 4],
          [-1, 1],
        ],
      ),
    ).toEqual([1, 1, -0.5])
  })
})
