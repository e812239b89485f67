/** What the lab is about: all of it stands in the link. Requests are made from it and from nothing else. */

import type { Checks, Json } from '../../stage/links'

/** A block of the catalogue with its options, as requests have it. */
export type Choice = { type: string } & { [option: string]: Json }
export type Range = [number, number]
export type StartsKind = 'points' | 'grid' | 'random'

/** JSON values only: `linked` writes what differs from the defaults into the URL. */
export type RaceState = {
  /** The preset that the expression came from; empty: typed. */
  preset: string
  expression: string
  variables: string[]
  /** A range for each variable. */
  box: Range[]
  starts: StartsKind
  /** Where balls start, if `starts` is "points". */
  points: number[][]
  /** Balls along each edge of a grid. */
  side: number
  /** Balls at random. */
  count: number
  seed: number
  optimizers: Choice[]
  schedule: Choice | null
  /** Longest gradient that optimizers see; 0: as it is. */
  clip: number
  steps: number
  noise: number
  noiseSeed: number
  view: '3d' | '2d'
  /** The optimizer of which basins colour the picture; -1: height does. */
  basins: number
  trails: boolean
  /** The ball that evidence is about. */
  focus: { optimizer: number; start: number }
  /** Which option the sweep varies beside the learning rate, and of which optimizer. */
  sweep: { optimizer: number; option: string }
  /** Slow motion: the parts of a step one after the other. */
  slow: boolean
  /** Where the eye of the 3-D view is: turn and height in degrees, distance. */
  eye: [number, number, number]
}

const whole = (low: number, high: number) => (value: number) => Number.isInteger(value) && value >= low && value <= high

/** What a link may say. Whatever passes makes requests that the service judges. */
export const CHECKS: Checks<RaceState> = {
  variables: (names) => names.length > 0,
  box: (box) => box.length > 0 && box.every((range) => range.length === 2 && range[0] < range[1]),
  starts: (kind) => ['points', 'grid', 'random'].includes(kind),
  points: (points) => points.length > 0 && points.length <= MOST_STARTS,
  side: whole(1, 20),
  count: whole(1, 400),
  seed: whole(0, 2 ** 32),
  optimizers: (list) => list.length > 0 && list.length <= MOST_OPTIMIZERS,
  schedule: (schedule) => schedule === null || typeof schedule.type === 'string',
  steps: whole(1, 20_000),
  noise: (noise) => noise >= 0,
  view: (view) => view === '3d' || view === '2d',
  eye: (eye) => eye.length === 3,
}

export const DEFAULTS: RaceState = {
  preset: 'himmelblau',
  expression: '(x^2 + y - 11)^2 + (x + y^2 - 7)^2',
  variables: ['x', 'y'],
  box: [
    [-5, 5],
    [-5, 5],
  ],
  starts: 'points',
  points: [[0, -3]],
  side: 20,
  count: 400,
  seed: 0,
  optimizers: [
    { type: 'sgd', learning_rate: 0.01 },
    { type: 'momentum', learning_rate: 0.01 },
    { type: 'rmsprop', learning_rate: 0.1 },
    { type: 'adam', learning_rate: 0.2 },
  ],
  schedule: null,
  clip: 0,
  steps: 150,
  noise: 0,
  noiseSeed: 0,
  view: '3d',
  basins: -1,
  trails: true,
  focus: { optimizer: 0, start: 0 },
  sweep: { optimizer: 1, option: '' },
  slow: false,
  eye: [-28, 40, 1],
}

/** How many optimizers race at once: as many as there are colours, markers and dashes. */
export const MOST_OPTIMIZERS = 6
/** Balls that all optimizers let go at once. */
export const MOST_STARTS = 400
/** Places that an answer may tell. Paths with more are thinned. */
export const MOST_PLACES = 80_000
/** Runs whose gradients and states come along with their ways. */
const MOST_WITH_STATE = 8

export function startCount(state: RaceState): number {
  if (state.starts === 'grid') return state.side ** state.variables.length
  if (state.starts === 'random') return state.count
  return state.points.length
}

export function runCount(state: RaceState): number {
  return startCount(state) * state.optimizers.length
}

/** Every so many steps a place is told, so that the answer stays small. */
export function tellEvery(runs: number, steps: number): number {
  return Math.max(1, Math.ceil((runs * steps) / MOST_PLACES))
}

/** Whether the answer about all runs also tells gradients and states. */
export function tellsState(state: RaceState): boolean {
  return runCount(state) <= MOST_WITH_STATE && runCount(state) * state.steps <= MOST_PLACES / 8
}

type Body = Record<string, unknown>

function rolling(state: RaceState): Body {
  const body: Body = { steps: state.steps }
  if (state.schedule) body['schedule'] = state.schedule
  if (state.clip > 0) body['clip'] = { norm: state.clip }
  return body
}

function noiseOf(state: RaceState): Body {
  return state.noise > 0 ? { noise: { scale: state.noise, seed: state.noiseSeed } } : {}
}

function startsOf(state: RaceState): unknown {
  if (state.starts === 'grid') return { grid: { box: state.box, resolution: state.side } }
  if (state.starts === 'random') return { random: { box: state.box, count: state.count, seed: state.seed } }
  return state.points
}

/** Body of `/v1/functions/descend`: all balls with all optimizers. */
export function descendBody(state: RaceState): Body {
  const every = tellEvery(runCount(state), state.steps)
  return {
    expression: state.expression,
    variables: state.variables,
    starts: startsOf(state),
    optimizers: state.optimizers,
    ...rolling(state),
    ...noiseOf(state),
    trace: tellsState(state) ? { every, include: ['gradients', 'state'] } : { every },
  }
}

/** Body of `/v1/functions/descend` for the last of some balls, with all there is to tell of each step. */
export function oneBallBody(state: RaceState, optimizer: number, starts: number[][]): Body {
  const every = Math.max(1, Math.ceil((state.steps * starts.length) / 4_000))
  return {
    expression: state.expression,
    variables: state.variables,
    starts,
    optimizers: [state.optimizers[optimizer]],
    ...rolling(state),
    ...noiseOf(state),
    trace: { every, include: ['gradients', 'state'] },
  }
}

/** Body of `/v1/functions/descend` for a sweep: the first start with each of the optimizers; only ends are told. */
export function sweepBody(state: RaceState, optimizers: Choice[]): Body {
  return {
    expression: state.expression,
    variables: state.variables,
    starts: [state.points[0]],
    optimizers,
    ...rolling(state),
    ...noiseOf(state),
    trace: { every: state.steps },
  }
}

/** The place that the numbers of all variables beyond the second are taken from. */
export function cutOf(state: RaceState): Record<string, number> {
  const start = state.points[0] ?? []
  return Object.fromEntries(
    state.variables.slice(2).map((name, index) => {
      const [low, high] = state.box[index + 2] ?? [-1, 1]
      return [name, state.starts === 'points' ? (start[index + 2] ?? 0) : (low + high) / 2]
    }),
  )
}

function gridBody(state: RaceState, along: number): Body {
  const [x, y] = state.box
  const body: Body = { expression: state.expression, variables: state.variables, x, resolution: along }
  if (state.variables.length > 1) body['y'] = y
  if (state.variables.length > 2) Object.assign(body, { axes: state.variables.slice(0, 2), at: cutOf(state) })
  return body
}

/** Body of `/v1/functions/surface`: heights to draw. */
export function surfaceBody(state: RaceState): Body {
  return { ...gridBody(state, state.variables.length === 1 ? 401 : 101), levels: 16 }
}

/** Body of `/v1/functions/surface` with a basin map of one optimizer. */
export function basinsBody(state: RaceState, optimizer: number, along: number): Body {
  return {
    ...gridBody(state, state.variables.length === 1 ? along * along : along),
    levels: 0,
    basins: true,
    optimizer: state.optimizers[optimizer],
    ...rolling(state),
  }
}

/** Body of `/v1/functions/stationary`. */
export function stationaryBody(state: RaceState): Body {
  return { expression: state.expression, variables: state.variables, box: state.box }
}

/** Body of `/v1/functions/gradient` at some points, with curvatures. */
export function curvatureBody(state: RaceState, points: number[][]): Body {
  return { expression: state.expression, variables: state.variables, points, include: ['hessian'] }
}

/** A start for another number of variables: what is there is kept, the rest lies between middle and border. */
export function fitPoint(point: readonly number[], box: readonly Range[]): number[] {
  return box.map(([low, high], index) => {
    const here = point[index]
    return here !== undefined && here >= low && here <= high ? here : low + 0.25 * (high - low)
  })
}
