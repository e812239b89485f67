/** The ways of all balls in one array, so that a frame needs a time and nothing else. */

/** A run as the service tells it; numbers that are not finite come as null. */
export interface Run {
  optimizer: number
  start: number
  status: string
  reason: string
  steps_done: number
  point: (number | null)[]
  value: number | null
  norm: number | null
  valley: number | null
  basin: number | null
  path: (number | null)[][]
  values: (number | null)[]
  gradients?: (number | null)[][]
  state?: Record<string, unknown>
}

/** Places told: for run r and entry k, `data[4 * (r * width + k)]` is x, then y, value, and after how many steps. */
export interface Paths {
  data: Float32Array
  width: number
  runs: number
  every: number
  /** After how many steps each run ended. */
  ends: Float32Array
  optimizer: Uint8Array
  diverged: Uint8Array
}

export interface Place {
  x: number
  y: number
  value: number
}

const FAR = 1e18

function number(value: number | null | undefined): number {
  if (value === null || value === undefined || Number.isNaN(value)) return FAR
  return Math.min(Math.max(value, -FAR), FAR)
}

/**
 * Pack the ways of runs. `steps` says after how many steps places are told: 0, every, … and the last. A run that ended
 * between two of them has one more entry. Rows go on with the end of their run, so that every time has a place.
 */
export function packPaths(runs: readonly Run[], steps: readonly number[], every: number): Paths {
  const width = Math.max(2, steps.length)
  const data = new Float32Array(4 * width * runs.length)
  const ends = new Float32Array(runs.length)
  const optimizer = new Uint8Array(runs.length)
  const diverged = new Uint8Array(runs.length)
  runs.forEach((run, row) => {
    const last = run.path.length - 1
    for (let entry = 0; entry < width; entry += 1) {
      const told = Math.min(entry, last)
      const point = run.path[told] ?? []
      const at = 4 * (row * width + entry)
      data[at] = number(point[0])
      data[at + 1] = point.length > 1 ? number(point[1]) : 0
      data[at + 2] = number(run.values[told])
      data[at + 3] = Math.min(steps[told] ?? run.steps_done, run.steps_done)
    }
    ends[row] = run.steps_done
    optimizer[row] = run.optimizer
    diverged[row] = run.status === 'diverged' ? 1 : 0
  })
  return { data, width, runs: runs.length, every, ends, optimizer, diverged }
}

/** Index of the last entry told at or before a time. */
export function entryAt(paths: Paths, time: number): number {
  return Math.min(Math.max(Math.floor(time / paths.every), 0), paths.width - 1)
}

/** Where a run is at a time; between two places told it is on the line between them. */
export function placeAt(paths: Paths, run: number, time: number, into: Place = { x: 0, y: 0, value: 0 }): Place {
  const { data, width } = paths
  const entry = Math.min(entryAt(paths, time), width - 2)
  const a = 4 * (run * width + Math.max(entry, 0))
  const b = a + 4
  const from = data[a + 3]!
  const to = data[b + 3]!
  const part = to > from ? Math.min(Math.max((time - from) / (to - from), 0), 1) : 0
  into.x = data[a]! + part * (data[b]! - data[a]!)
  into.y = data[a + 1]! + part * (data[b + 1]! - data[a + 1]!)
  into.value = data[a + 2]! + part * (data[b + 2]! - data[a + 2]!)
  return into
}

/** In slow motion a ball stands while gradient, memory and correction are shown, and moves in the last quarter. */
export function slowed(time: number): number {
  const step = Math.floor(time)
  return step + Math.max(0, (time - step) * 4 - 3)
}

/** Which part of a step is shown: 0 gradient, 1 memory, 2 correction, 3 move. */
export function partOf(time: number): number {
  return Math.min(3, Math.floor((time - Math.floor(time)) * 4))
}

/** Entries of the texture for the graphics card: x, y and height in the units of the scene, and the time. */
export function textureOf(
  paths: Paths,
  place: (x: number, y: number) => [number, number],
  height: (value: number) => number,
): Float32Array {
  const texture = new Float32Array(paths.data.length)
  for (let at = 0; at < texture.length; at += 4) {
    const [x, y] = place(paths.data[at]!, paths.data[at + 1]!)
    texture[at] = Math.min(Math.max(x, -FAR), FAR)
    texture[at + 1] = Math.min(Math.max(y, -FAR), FAR)
    texture[at + 2] = height(paths.data[at + 2]!)
    texture[at + 3] = paths.data[at + 3]!
  }
  return texture
}
