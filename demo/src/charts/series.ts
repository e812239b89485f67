/** What a line chart draws. */

export interface Series {
  name: string
  /** x and y; null breaks the line. */
  points: readonly (readonly [number, number | null])[]
  /** A CSS colour, such as var(--optimizer-1). */
  colour: string
  /** A dash pattern of SVG, so that lines differ without colour. */
  dash?: string
  /** What stands at the end of the line instead of the name. */
  label?: string
}

/** At most so many points, those with the extreme values among them, so that no peak is lost. */
export function thinned(points: Series['points'], most: number): Series['points'] {
  if (points.length <= most) return points
  const width = Math.ceil((2 * points.length) / most)
  const kept: (readonly [number, number | null])[] = []
  for (let start = 0; start < points.length; start += width) {
    const part = points.slice(start, start + width)
    const known = part.filter(([, y]) => y !== null) as [number, number][]
    if (known.length < part.length) kept.push(part.find(([, y]) => y === null)!)
    if (!known.length) continue
    const low = known.reduce((a, b) => (b[1] < a[1] ? b : a))
    const high = known.reduce((a, b) => (b[1] > a[1] ? b : a))
    kept.push(...(low === high ? [low] : low[0] < high[0] ? [low, high] : [high, low]))
  }
  const last = points.at(-1)!
  if (kept.at(-1) !== last) kept.push(last)
  return kept
}

/** The least and greatest of all x and y that can be drawn; on a logarithmic scale only positive y count. */
export function bounds(all: readonly Series[], logarithmic: boolean): { x: [number, number]; y: [number, number] } | undefined {
  const x: [number, number] = [Infinity, -Infinity]
  const y: [number, number] = [Infinity, -Infinity]
  for (const { points } of all) {
    for (const [a, b] of points) {
      if (b === null || !Number.isFinite(b) || (logarithmic && b <= 0)) continue
      x[0] = Math.min(x[0], a)
      x[1] = Math.max(x[1], a)
      y[0] = Math.min(y[0], b)
      y[1] = Math.max(y[1], b)
    }
  }
  if (x[0] > x[1]) return undefined
  if (x[0] === x[1]) x[1] = x[0] + 1
  if (y[0] === y[1]) {
    const size = Math.abs(y[0]) || 1
    if (logarithmic) [y[0], y[1]] = [y[0] / 2, y[0] * 2]
    else [y[0], y[1]] = [y[0] - size / 2, y[0] + size / 2]
  }
  return { x, y }
}

/** Ticks of a logarithmic scale: powers of ten, thinned out to at most `most`. */
export function powers(low: number, high: number, most: number): number[] {
  const first = Math.ceil(Math.log10(low) - 1e-9)
  const last = Math.floor(Math.log10(high) + 1e-9)
  const every = Math.max(1, Math.ceil((last - first + 1) / most))
  const found: number[] = []
  for (let power = first; power <= last; power += every) found.push(10 ** power)
  return found
}

/** A tick as short as it can be: 1e−4, 0.01, 200. */
export function tickText(x: number): string {
  const size = Math.abs(x)
  if (size !== 0 && (size < 0.01 || size >= 1e5)) {
    const [mantissa = '', exponent = ''] = x.toExponential(2).split('e')
    return `${Number(mantissa)}e${exponent.replace('+', '')}`.replaceAll('-', '−')
  }
  return String(Number(x.toPrecision(6))).replace('-', '−')
}
