/** Trails of few balls as pieces that follow the ground where the straight way would lead below it. */

import { sample, type Grid } from './contours'
import type { Paths } from './paths'

export interface Pieces {
  count: number
  /** x, y, height, time of both ends of each piece. */
  from: Float32Array
  to: Float32Array
  optimizer: Float32Array
  /** How long the way is up to the piece. */
  along: Float32Array
}

/** Longest piece over the ground, in units of the scene. */
const LONGEST = 0.05
/** Steps that lie closer together than this are one piece. */
const SHORTEST = 0.003
/** Pieces that one way is divided into, at most, whatever its length. */
const MOST_FOR_ONE = 60

export interface Shape {
  place: (x: number, y: number) => [number, number]
  height: (value: number) => number
  tall: number
  lift: number
}

export function piecesOf(paths: Paths, grid: Grid, shape: Shape): Pieces {
  const from: number[] = []
  const to: number[] = []
  const optimizer: number[] = []
  const along: number[] = []
  for (let run = 0; run < paths.runs; run += 1) {
    let length = 0
    let begin = 0
    for (let entry = 1; entry < paths.width; entry += 1) {
      const a = 4 * (run * paths.width + begin)
      const b = 4 * (run * paths.width + entry)
      const [ta, tb] = [paths.data[a + 3]!, paths.data[b + 3]!]
      if (tb <= ta) break
      const [xa, ya] = shape.place(paths.data[a]!, paths.data[a + 1]!)
      const [xb, yb] = shape.place(paths.data[b]!, paths.data[b + 1]!)
      const far = Math.hypot(xb - xa, yb - ya)
      if (!(far < 1e6)) break
      const last = entry + 1 === paths.width || paths.data[b + 7]! <= tb
      if (far < SHORTEST && !last) continue
      begin = entry
      const parts = Math.min(MOST_FOR_ONE, Math.max(1, Math.ceil(far / LONGEST)))
      let before: number[] | null = null
      for (let part = 0; part <= parts; part += 1) {
        const t = part / parts
        const straight = mix(shape.height(paths.data[a + 2]!), shape.height(paths.data[b + 2]!), t)
        const x = mix(paths.data[a]!, paths.data[b]!, t)
        const y = mix(paths.data[a + 1]!, paths.data[b + 1]!, t)
        const ground = shape.height(sample(grid, x, y))
        const high = (Number.isNaN(ground) ? straight : Math.max(straight, ground)) * shape.tall + shape.lift
        const now = [mix(xa, xb, t), mix(ya, yb, t), high, mix(ta, tb, t)]
        if (before) {
          from.push(...before)
          to.push(...now)
          optimizer.push(paths.optimizer[run]!)
          along.push(length)
          length += Math.hypot(now[0]! - before[0]!, now[1]! - before[1]!, now[2]! - before[2]!)
        }
        before = now
      }
    }
  }
  return {
    count: optimizer.length,
    from: Float32Array.from(from),
    to: Float32Array.from(to),
    optimizer: Float32Array.from(optimizer),
    along: Float32Array.from(along),
  }
}

function mix(a: number, b: number, part: number): number {
  return a + (b - a) * part
}
