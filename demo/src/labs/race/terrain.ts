/** The picture of a surface from above, pixel by pixel: height or basins as colour, with the shade of a low sun. */

import type { RGB } from './colours'

/** Heights on a grid, 0 to about 1; NaN where there is no value. Rows go from low y to high y. */
export interface Relief {
  columns: number
  rows: number
  heights: Float32Array
}

/** Which valley is reached from each place of a grid. */
export interface BasinGrid {
  columns: number
  rows: number
  valleys: Int16Array
}

export interface Paint {
  /** Three bytes for each of 256 heights. */
  table: Uint8Array
  dark: boolean
  basins?: { grid: BasinGrid; colour: (valley: number) => RGB }
  /** How strong the shade is: 0 none. */
  shade?: number
}

const NOWHERE = -1

export function reliefOf(
  values: Float64Array,
  columns: number,
  rows: number,
  height: (value: number) => number,
): Relief {
  return { columns, rows, heights: Float32Array.from(values, height) }
}

/** Fill pixels (four bytes each, rows from the top) with the picture of a relief. */
export function paintTerrain(
  pixels: Uint8ClampedArray,
  width: number,
  height: number,
  relief: Relief,
  paint: Paint,
): void {
  const { columns, rows, heights } = relief
  const strength = paint.shade ?? 1
  const gap: RGB = paint.dark ? [58, 66, 79] : [205, 210, 218]
  for (let row = 0; row < height; row += 1) {
    const v = (1 - (row + 0.5) / height) * (rows - 1)
    const j = Math.min(Math.floor(v), rows - 2)
    const dv = v - j
    for (let column = 0; column < width; column += 1) {
      const u = ((column + 0.5) / width) * (columns - 1)
      const i = Math.min(Math.floor(u), columns - 2)
      const du = u - i
      const corner = j * columns + i
      const a = heights[corner]!
      const b = heights[corner + 1]!
      const c = heights[corner + columns]!
      const d = heights[corner + columns + 1]!
      const here = (1 - dv) * ((1 - du) * a + du * b) + dv * ((1 - du) * c + du * d)
      const at = 4 * (row * width + column)
      pixels[at + 3] = 255
      if (Number.isNaN(here)) {
        const stripe = (row + column) % 8 < 3 ? 0.82 : 1
        for (let part = 0; part < 3; part += 1) pixels[at + part] = gap[part]! * (paint.dark ? 2 - stripe : stripe)
        continue
      }
      const east = (b - a) * (1 - dv) + (d - c) * dv
      const north = (c - a) * (1 - du) + (d - b) * du
      const light = 1 + strength * shadeOf(east * columns, north * rows)
      const colour = paint.basins
        ? basinAt(paint.basins, (column + 0.5) / width, 1 - (row + 0.5) / height, row + column, paint.dark)
        : null
      const place = 3 * Math.min(255, Math.max(0, Math.round(here * 255)))
      for (let part = 0; part < 3; part += 1) {
        pixels[at + part] = (colour ? colour[part]! : paint.table[place + part]!) * light
      }
    }
  }
}

/** How much lighter a slope is than flat ground, with the sun in the north-west. */
export function shadeOf(east: number, north: number): number {
  const steep = 0.35
  const x = east * steep
  const y = north * steep
  const facing = (x * 0.5 - y * 0.5 + 0.7) / Math.sqrt(x * x + y * y + 1) - 0.7
  return Math.max(-0.22, Math.min(0.16, facing * 0.32))
}

function basinAt(basins: NonNullable<Paint['basins']>, u: number, v: number, diagonal: number, dark: boolean): RGB {
  const { columns, rows, valleys } = basins.grid
  const i = Math.min(columns - 1, Math.max(0, Math.round(u * (columns - 1))))
  const j = Math.min(rows - 1, Math.max(0, Math.round(v * (rows - 1))))
  const valley = valleys[j * columns + i]!
  if (valley >= 0) return basins.colour(valley)
  const grey = dark ? 62 : 196
  if (valley === NOWHERE) return [grey, grey, grey + 4]
  const stripe = diagonal % 8 < 3 ? (dark ? 34 : -34) : 0
  return [grey + stripe, grey + stripe, grey + 4 + stripe]
}
