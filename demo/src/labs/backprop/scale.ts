/** Scales of the lab's small charts: linear or logarithmic, with few round ticks. */
import { ticks as roundTicks } from 'd3-array'

export interface Scale {
  at: (value: number) => number
  back: (place: number) => number
  ticks: number[]
}

export function linear(low: number, high: number, from: number, to: number, count = 4): Scale {
  const [a, b] = low === high ? [low - 0.5, high + 0.5] : [low, high]
  return {
    at: (value) => from + ((value - a) / (b - a)) * (to - from),
    back: (place) => a + ((place - from) / (to - from)) * (b - a),
    ticks: roundTicks(a, b, count),
  }
}

/** Of numbers above 0; ticks are powers of ten, thinned to the count. */
export function logarithmic(low: number, high: number, from: number, to: number, count = 4): Scale {
  const [a, b] = [Math.log10(low), Math.log10(high > low ? high : low * 10)]
  const inner = linear(a, b, from, to)
  const first = Math.ceil(a - 1e-9)
  const last = Math.floor(b + 1e-9)
  const step = Math.max(1, Math.ceil((last - first + 1) / count))
  const ticks: number[] = []
  for (let power = first; power <= last; power += step) ticks.push(10 ** power)
  if (ticks.length < 2) ticks.splice(0, ticks.length, ...roundTicks(low, high > low ? high : low * 10, count))
  return { at: (value) => inner.at(Math.log10(value)), back: (place) => 10 ** inner.back(place), ticks }
}

/** The extent of finite values; 0 … 1 where there are none. */
export function extentOf(values: Iterable<number | null | undefined>): [number, number] {
  let low = Infinity
  let high = -Infinity
  for (const value of values) {
    if (value === null || value === undefined || !Number.isFinite(value)) continue
    low = Math.min(low, value)
    high = Math.max(high, value)
  }
  return low <= high ? [low, high] : [0, 1]
}

/** A path through points; a value that is not finite breaks it. */
export function pathOf(points: [number, number][]): string {
  let path = ''
  let pen = false
  for (const [x, y] of points) {
    if (!Number.isFinite(x) || !Number.isFinite(y)) pen = false
    else {
      path += `${pen ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`
      pen = true
    }
  }
  return path
}

/** At most so many of the points: of each stretch the lowest and the highest, so that no peak is lost in the drawing. */
export function thinned(points: [number, number][], most: number): [number, number][] {
  if (points.length <= most) return points
  const stretch = Math.ceil((points.length * 2) / most)
  const kept: [number, number][] = []
  for (let i = 0; i < points.length; i += stretch) {
    const part = points.slice(i, i + stretch)
    const sorted = [...part].sort((a, b) => a[1] - b[1])
    const ends = [sorted[0], sorted[sorted.length - 1]] as [number, number][]
    kept.push(...ends.sort((a, b) => a[0] - b[0]))
  }
  return kept
}
