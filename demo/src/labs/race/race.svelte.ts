/** The numbers of the lab: what the service said last about the present function, balls and optimizers. */

import { ask, type AnswerOf, type BodyOf, type PostPath } from '../../api/client'
import { latest } from '../../api/latest'
import { asProblem, type Problem } from '../../api/problem'
import { motion } from '../../stage/theme.svelte'
import { Timeline } from '../../stage/timeline.svelte'
import { contoursOf, gridOf, type Contour, type Grid } from './contours'
import { heightsOf, type Heights, type Spacing } from './heights'
import { packPaths, slowed, type Paths, type Run } from './paths'
import {
  basinsBody,
  MOST_STARTS,
  cutOf,
  curvatureBody,
  descendBody,
  oneBallBody,
  stationaryBody,
  surfaceBody,
  tellEvery,
  tellsState,
  runCount,
  type Range,
  type RaceState,
} from './state'
import { reliefOf, type BasinGrid, type Relief } from './terrain'

/** How long a race lasts, in seconds at speed 1, and how many steps a second slow motion makes. */
const RACE_SECONDS = 9
const SLOW_RATE = 0.4

type Numbers = (number | null)[]
/** Answers as JSON has them when nothing else is asked for: tensors are lists. */
type Listed<T, L> = Omit<T, keyof L> & L
type Points<P extends '/v1/functions/gradient' | '/v1/functions/stationary'> = AnswerOf<P>['points'][number]
export type PointAnswer = Listed<
  Points<'/v1/functions/gradient'>,
  { point: number[]; gradient: Numbers; direction: Numbers | null; hessian?: Numbers[]; eigenvalues?: number[] }
>
export type StationaryPoint = Listed<Points<'/v1/functions/stationary'>, { point: number[]; eigenvalues: number[] }>
export type Stationary = Listed<AnswerOf<'/v1/functions/stationary'>, { points: StationaryPoint[] }>
export type Valley = { point: number[]; value: number; classification: string; eigenvalues: number[]; runs: number }

/** A surface as it is drawn: the answer and what drawing makes of it. */
export interface Surface {
  expression: string
  variables: string[]
  dimensions: number
  x: Range
  y: Range
  levels: number[]
  grid: Grid
  relief: Relief
  heights: Heights
  contours: Contour[]
  /** Numbers of the variables that the picture has no axis for. */
  cut: Record<string, number>
}

export interface Descent {
  expression: string
  optimizers: RaceState['optimizers']
  runs: Run[]
  steps: number[]
  every: number
  paths: Paths
  valleys: Valley[]
  best: number | null
  starts: number
  /** Whether runs tell gradients and states. */
  detailed: boolean
  warnings: { code: string; message: string }[]
}

export interface Basins {
  optimizer: number
  grid: BasinGrid
  valleys: Valley[]
  arrived: number
  moving: number
  diverged: number
}

/** A question whose newest answer counts, with what is wrong and whether it is being answered. */
export class Question<T> {
  answer = $state.raw<T>()
  problem = $state.raw<Problem>()
  busy = $state(false)
  readonly #run

  constructor(run: (signal: AbortSignal) => Promise<T>) {
    this.#run = latest(run)
  }

  async ask(): Promise<void> {
    this.busy = true
    try {
      const answer = await this.#run()
      if (answer === undefined) return
      this.answer = answer
      this.problem = undefined
    } catch (error) {
      this.problem = asProblem(error)
    }
    this.busy = false
  }

  drop(): void {
    this.#run.abort()
    this.answer = undefined
    this.problem = undefined
    this.busy = false
  }
}

/** Ask with a body made from the state: it has the shape that the service's types ask for. */
export function asked<P extends PostPath>(
  path: P,
  body: object,
  panel: string,
  signal: AbortSignal,
): Promise<AnswerOf<P>> {
  return ask(path, body as BodyOf<P>, { signal, panel })
}

export class Race {
  readonly state: RaceState
  readonly timeline = new Timeline()
  readonly surface: Question<Surface>
  readonly descent: Question<Descent>
  readonly stationary: Question<Stationary>
  /** Curvature at the first start and at the valleys: where the largest stable step comes from. */
  readonly curvature: Question<{ points: PointAnswer[]; valleys: Valley[] }>
  readonly basins: Question<Basins>
  /** The ball in focus with all there is to tell of its steps. */
  readonly ball: Question<{ run: Run; steps: number[] }>
  /** Value, gradient and curvature at the pointer. */
  readonly here: Question<PointAnswer>
  /** Where the pointer is over the picture. */
  pointer = $state.raw<number[] | null>(null)
  /** A start is being dragged: whole ways are shown and nothing plays. */
  dragging = $state(false)

  constructor(state: RaceState) {
    this.state = state
    this.surface = new Question((signal) => this.#surface(signal))
    this.descent = new Question((signal) => this.#descent(signal))
    this.stationary = new Question(
      async (signal) =>
        (await asked('/v1/functions/stationary', stationaryBody(this.state), 'race.stationary', signal)) as Stationary,
    )
    this.curvature = new Question((signal) => this.#curvature(signal))
    this.basins = new Question((signal) => this.#basins(signal))
    this.ball = new Question((signal) => this.#ball(signal))
    this.here = new Question(async (signal) => {
      const body = curvatureBody(this.state, [this.pointer!])
      return (await asked('/v1/functions/gradient', body, 'race.here', signal)).points[0] as PointAnswer
    })
  }

  /** The next answer plays from its start. */
  #replay = true
  /** This browser has no WebGL: only the 2-D picture can be shown. */
  flatOnly = $state(false)

  /** Another function, or the same one elsewhere. */
  show(change: Partial<RaceState>, play = true): void {
    this.pointer = null
    this.here.drop()
    Object.assign(this.state, { basins: -1, ...change })
    if (this.state.starts === 'grid') {
      this.state.side = Math.min(this.state.side, Math.floor(MOST_STARTS ** (1 / this.state.variables.length) + 1e-9))
    }
    this.state.focus = { optimizer: Math.min(this.state.focus.optimizer, this.state.optimizers.length - 1), start: 0 }
    if (play) this.replay()
  }

  /** Let the balls go from their starts once the answer is there. */
  replay(): void {
    this.#replay = true
  }

  /** To be called when balls have been answered: the timeline takes their steps. */
  begin(descent: Descent): void {
    const { timeline } = this
    const ended = timeline.position >= timeline.last
    timeline.last = Math.max(0, ...descent.runs.map((run) => run.steps_done))
    timeline.rate = this.state.slow ? SLOW_RATE : Math.max(6, timeline.last / RACE_SECONDS)
    if (this.dragging || motion.reduced) timeline.seek(timeline.last)
    else if (this.#replay) {
      timeline.position = 0
      timeline.play()
    } else if (ended || timeline.position > timeline.last) timeline.position = timeline.last
    if (!this.dragging) this.#replay = false
  }

  /** The time that is drawn: in slow motion balls stand while the parts of a step are shown. */
  get time(): number {
    return this.state.slow ? slowed(this.timeline.shown) : this.timeline.shown
  }

  /** What is drawn as the picture. */
  get view(): 'curve' | '3d' | '2d' {
    if (this.surface.answer?.dimensions === 1) return 'curve'
    return this.state.view === '3d' && !this.flatOnly ? '3d' : '2d'
  }

  /** The descent, if it is one on the surface that is drawn. */
  get drawn(): Descent | undefined {
    const descent = this.descent.answer
    return descent && descent.expression === this.surface.answer?.expression ? descent : undefined
  }

  /** Valleys of the descent, lowest first. */
  get valleys(): Valley[] {
    return this.descent.answer?.valleys ?? []
  }

  /** The run that evidence is about. */
  get focused(): Run | undefined {
    const descent = this.descent.answer
    if (!descent) return undefined
    const { optimizer, start } = this.state.focus
    return (
      descent.runs.find((run) => run.optimizer === optimizer && run.start === start) ??
      descent.runs.find((run) => run.optimizer === optimizer) ??
      descent.runs[0]
    )
  }

  /** Where the start of a run is. */
  startOf(run: Run): number[] {
    return (run.path[0] ?? []).map((number) => number ?? NaN)
  }

  async #surface(signal: AbortSignal): Promise<Surface> {
    const { expression, box } = this.state
    const cut = cutOf(this.state)
    const answer = await asked('/v1/functions/surface', surfaceBody(this.state), 'race.surface', signal)
    const flat = answer.variables.length === 1
    const rows = (flat ? [answer.values, answer.values] : answer.values) as unknown as (number | null)[][]
    const x = box[0]!
    const y = flat ? ([0, 1] as Range) : box[1]!
    const grid = gridOf(rows, x, y)
    const heights = heightsOf(
      answer.spacing as Spacing,
      answer.minimum?.value ?? 0,
      answer.maximum?.value ?? 0,
      answer.levels,
    )
    return {
      expression,
      variables: answer.variables,
      dimensions: answer.variables.length,
      x,
      y,
      levels: answer.levels,
      grid,
      heights,
      relief: reliefOf(grid.values, grid.columns, grid.rows, heights.of),
      contours: flat ? [] : contoursOf(grid, answer.levels),
      cut,
    }
  }

  async #descent(signal: AbortSignal): Promise<Descent> {
    const body = descendBody(this.state)
    const every = tellEvery(runCount(this.state), this.state.steps)
    const { expression } = this.state
    const optimizers = JSON.parse(JSON.stringify(this.state.optimizers)) as RaceState['optimizers']
    const detailed = tellsState(this.state)
    const answer = await asked('/v1/functions/descend', body, 'race.descend', signal)
    const runs = answer.runs as unknown as Run[]
    return {
      expression,
      optimizers,
      runs,
      steps: answer.steps,
      every,
      paths: packPaths(runs, answer.steps, every),
      valleys: answer.valleys as unknown as Valley[],
      best: answer.best ?? null,
      starts: runs.length / optimizers.length,
      detailed,
      warnings: answer.warnings,
    }
  }

  async #curvature(signal: AbortSignal): Promise<{ points: PointAnswer[]; valleys: Valley[] }> {
    const valleys = this.valleys.slice(0, 12)
    const first = this.descent.answer?.runs[0]
    const points = [...(first ? [this.startOf(first)] : []), ...valleys.map((valley) => valley.point)]
    const body = curvatureBody(this.state, points)
    const answer = await asked('/v1/functions/gradient', body, 'race.curvature', signal)
    return { points: answer.points as PointAnswer[], valleys }
  }

  async #basins(signal: AbortSignal): Promise<Basins> {
    const optimizer = Math.min(this.state.basins, this.state.optimizers.length - 1)
    let along = 61
    let answer: AnswerOf<'/v1/functions/surface'>
    try {
      answer = await asked('/v1/functions/surface', basinsBody(this.state, optimizer, along), 'race.basins', signal)
    } catch (error) {
      // Searches go ball by ball, from fewer places.
      if (!asProblem(error).at('#/resolution').length) throw error
      along = 31
      answer = await asked('/v1/functions/surface', basinsBody(this.state, optimizer, along), 'race.basins', signal)
    }
    const basins = answer.basins!
    const rows = (answer.variables.length === 1 ? [basins.grid, basins.grid] : basins.grid) as unknown as number[][]
    return {
      optimizer,
      grid: { columns: rows[0]!.length, rows: rows.length, valleys: Int16Array.from(rows.flat()) },
      valleys: basins.valleys as unknown as Valley[],
      arrived: basins.arrived,
      moving: basins.moving,
      diverged: basins.diverged,
    }
  }

  async #ball(signal: AbortSignal): Promise<{ run: Run; steps: number[] }> {
    const run = this.focused
    const descent = this.descent.answer
    if (!run || !descent) throw new Error('no ball')
    if (descent.detailed) return { run, steps: descent.steps }
    // Under noise the random numbers of a ball are those of its place among the starts.
    const before = this.state.noise > 0 ? descent.runs.slice(0, run.start) : []
    const starts = [...before.map((one) => this.startOf(one)), this.startOf(run)]
    const body = oneBallBody(this.state, run.optimizer, starts)
    const answer = await asked('/v1/functions/descend', body, 'race.ball', signal)
    return { run: answer.runs.at(-1) as unknown as Run, steps: answer.steps }
  }
}
