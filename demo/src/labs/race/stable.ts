/** The largest stable step of gradient descent, 2/λmax, as the service tells it of the minimum that a run goes to. */

import { catalogue } from './catalogue.svelte'
import type { Race } from './race.svelte'

export interface Bound {
  rate: number
  /** 2/λmax at the minimum. */
  step: number
  /** Larger than this optimizer bears there: momentum bears more. */
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
  const factor = factorOf(race, optimizer)
  if (factor === null) return null
  const run = descent.runs.find((one) => one.optimizer === optimizer && one.start === 0)
  const place = run?.valley ?? run?.basin ?? nearest(race)
  if (place === null || place === undefined) return null
  const step = stepAt(race, place)
  if (step === null) return null
  const over = rate > (factor * step) / 2
  return { rate, step, over, lost: over && run?.valley === null, place }
}

/**
 * The learning rate times λmax that an optimizer bears, as the catalogue has it; null where nobody knows one: steps that
 * are scaled by the gradients before them are not compared with 2/λmax.
 */
export function factorOf(race: Race, optimizer: number): number | null {
  const choice = race.state.optimizers[optimizer]
  return (choice && catalogue.optimizer(choice.type)?.stable_factor) ?? null
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
