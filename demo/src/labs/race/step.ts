/** One step of one ball in its parts, as the trace tells them: gradient, memory, correction, move. */

import type { Run } from './paths'

type Numbers = (number | null)[]

export interface Remembered {
  name: string
  before: Numbers
  after: Numbers
}

export interface Step {
  /** After how many steps it begins and ends; more than one apart where the way was thinned. */
  from: number
  to: number
  point: Numbers
  value: number | null
  gradient: Numbers
  memory: Remembered[]
  /** What is left of the memory once its start at 0 is corrected. */
  corrected: Remembered[]
  next: Numbers
  nextValue: number | null
}

const CORRECTED = 'corrected_'

function numbers(state: unknown, entry: number): Numbers {
  const here: unknown = Array.isArray(state) ? (state as unknown[])[entry] : undefined
  if (Array.isArray(here)) return here as Numbers
  return typeof here === 'number' ? [here] : []
}

/** The step that a run makes after `at` steps; null where it has ended or its trace tells no gradients. */
export function stepOf(run: Run, steps: readonly number[], at: number): Step | null {
  const told = [...steps.slice(0, run.path.length)]
  if (told.length < run.path.length) told.push(run.steps_done)
  let entry = told.length - 1
  while (entry > 0 && told[entry]! > at) entry -= 1
  if (entry + 1 >= run.path.length || !run.gradients) return null
  const memory: Remembered[] = []
  const corrected: Remembered[] = []
  for (const [name, state] of Object.entries(run.state ?? {})) {
    const one = { name, before: numbers(state, entry), after: numbers(state, entry + 1) }
    if (one.after.length === 0) continue
    if (name.startsWith(CORRECTED)) corrected.push({ ...one, name: name.slice(CORRECTED.length) })
    else memory.push(one)
  }
  return {
    from: told[entry]!,
    to: told[entry + 1]!,
    point: run.path[entry]!,
    value: run.values[entry] ?? null,
    gradient: run.gradients[entry] ?? [],
    memory,
    corrected,
    next: run.path[entry + 1]!,
    nextValue: run.values[entry + 1] ?? null,
  }
}

/** A memory that has the direction of steps, such as a velocity: what phase planes are drawn of. */
export function directed(run: Run): { name: string; series: Numbers[] } | null {
  for (const [name, state] of Object.entries(run.state ?? {})) {
    if (name.startsWith(CORRECTED) || !Array.isArray(state)) continue
    const series = (state as unknown[]).map((_, entry) => numbers(state, entry))
    if (series.some((one) => one.some((number) => (number ?? 0) < 0))) return { name, series }
  }
  return null
}

/** Whether a memory holds sums or means of squares: never negative, so that it can be drawn as an area. */
export function isSquare(name: string): boolean {
  return /second_moment|square|accumulator|infinity_norm/.test(name)
}
