/** The largest stable step of gradient descent, 2/λmax, as the service tells it of the minimum that a run goes to. */

import type { Race } from './race.svelte'

export interface Bound {
  rate: number
  /** 2/λmax at the minimum. */
  step: number
  /** Larger than that. */
  over: boolean
  /** And the ball has not come to rest: then this may be why. */
  lost: boolean
  /** Index of the minimum among the valleys. */
  place: number
}

export function boundFor(race: Race, optimizer: number): Bound | null {
  const descent = race.descent.answer
  const rate = race.state.optimizers[optimizer]?.['learning_rate']
  if (!descent || typeof rate !== 'number') return null
  const run = descent.runs.find((one) => one.optimizer === optimizer && one.start === 0)
  const place = run?.valley ?? run?.basin ?? nearest(race)
  if (place === null || place === undefined) return null
  const step = stepAt(race, place)
  return step === null ? null : { rate, step, over: rate > step, lost: rate > step && run?.valley === null, place }
}

/** 2/λmax at one of the valleys; null where it is no minimum, or not known yet. */
export function stepAt(race: Race, valley: number): number | null {
  const curvature = race.curvature.answer
  const wanted = race.valleys[valley]?.point.join()
  const place = curvature?.valleys.findIndex((one) => one.point.join() === wanted) ?? -1
  if (!curvature || place < 0) return null
  return curvature.points[curvature.points.length - curvature.valleys.length + place]?.largest_stable_step ?? null
}

/** Where nobody arrived, the minimum of which the bound is told is the lowest one that others arrived at. */
function nearest(race: Race): number | null {
  const place = race.valleys.findIndex((valley) => valley.classification === 'minimum')
  return place < 0 ? null : place
}
