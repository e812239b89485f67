/** How values become heights and colours. The service says of its levels whether they are linear or logarithmic. */

export type Spacing = 'linear' | 'logarithmic'

export interface Heights {
  spacing: Spacing
  lowest: number
  highest: number
  /** Height of a value: 0 to 1 within the picture, at most 1.2 above it; NaN if there is no value. */
  of: (value: number) => number
  /** The value at a height. */
  value: (height: number) => number
}

const HIGHEST = 1.2

/** Scale from `lowest` to `highest`; logarithmic ones are even in log(1 + (value - lowest) / unit). */
export function heightsOf(spacing: Spacing, lowest: number, highest: number, levels: readonly number[]): Heights {
  const span = highest - lowest
  if (!(span > 0)) {
    return { spacing, lowest, highest, of: (value) => (Number.isFinite(value) ? 0 : NaN), value: () => lowest }
  }
  const clamp = (height: number): number => Math.min(Math.max(height, -0.05), HIGHEST)
  if (spacing === 'linear') {
    return {
      spacing,
      lowest,
      highest,
      of: (value) => (Number.isNaN(value) ? NaN : clamp((value - lowest) / span)),
      value: (height) => lowest + height * span,
    }
  }
  const first = levels.find((level) => level > lowest)
  const unit = Math.max(first === undefined ? span / 100 : first - lowest, span * 1e-6)
  const full = Math.log1p(span / unit)
  return {
    spacing,
    lowest,
    highest,
    of: (value) => (Number.isNaN(value) ? NaN : clamp(Math.log1p(Math.max(value - lowest, 0) / unit) / full)),
    value: (height) => lowest + unit * Math.expm1(height * full),
  }
}

/** Round values for the ticks of a scale, from low to high, at most one for each tenth of its height. */
export function ticksOf(heights: Heights, levels: readonly number[], most = 6): number[] {
  const inside = levels.filter((level) => level >= heights.lowest && level <= heights.highest)
  const ticks: number[] = []
  let last = -Infinity
  for (const level of inside) {
    const height = heights.of(level)
    if (height - last >= 0.9 / most) {
      ticks.push(level)
      last = height
    }
  }
  return ticks
}
