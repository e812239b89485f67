/** Numbers on a grid as pixels. */

import type { Ramp, Rgb } from './ramp'

/**
 * One pixel for each number, the first row at the bottom. `place` tells where on the ramp a number is, from 0 to 1;
 * what is null or not finite is hatched in `hatch`.
 */
export function pixels(
  rows: readonly (readonly (number | null)[])[], place: (value: number) => number, ramp: Ramp, hatch: readonly [Rgb, Rgb],
): ImageData {
  const height = rows.length
  const width = rows[0]?.length ?? 0
  const image = new ImageData(Math.max(1, width), Math.max(1, height))
  rows.forEach((row, index) => {
    const y = height - 1 - index
    row.forEach((value, x) => {
      const known = value !== null && Number.isFinite(value)
      const [red, green, blue] = known ? ramp(place(value)) : hatch[((x + y) >> 1) % 2]!
      image.data.set([red, green, blue, 255], 4 * (y * width + x))
    })
  })
  return image
}

/** The least and the greatest finite number of a grid. */
export function extent(rows: readonly (readonly (number | null)[])[]): [number, number] {
  let low = Infinity
  let high = -Infinity
  for (const row of rows) {
    for (const value of row) {
      if (value === null || !Number.isFinite(value)) continue
      if (value < low) low = value
      if (value > high) high = value
    }
  }
  return low <= high ? [low, high] : [0, 0]
}
