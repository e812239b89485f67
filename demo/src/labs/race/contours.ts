/** Contour lines of a grid, in the units of the domain. */

import { contours } from 'd3-contour'
import type { Range } from './state'

/** Values on a grid: a row for each y, in it a number for each x; NaN where there is none. */
export interface Grid {
  columns: number
  rows: number
  values: Float64Array
  x: Range
  y: Range
}

export interface Contour {
  level: number
  /** Open lines of places x0, y0, x1, y1, … */
  lines: number[][]
}

export function gridOf(values: readonly (readonly (number | null)[])[], x: Range, y: Range): Grid {
  const rows = values.length
  const columns = values[0]?.length ?? 0
  const flat = new Float64Array(rows * columns)
  values.forEach((row, j) => row.forEach((value, i) => (flat[j * columns + i] = value ?? NaN)))
  return { columns, rows, values: flat, x, y }
}

/** Value of the grid between its places, bilinear; NaN outside or beside a gap. */
export function sample(grid: Grid, x: number, y: number): number {
  const i = ((x - grid.x[0]) / (grid.x[1] - grid.x[0])) * (grid.columns - 1)
  const j = ((y - grid.y[0]) / (grid.y[1] - grid.y[0])) * (grid.rows - 1)
  if (!(i >= 0 && j >= 0 && i <= grid.columns - 1 && j <= grid.rows - 1)) return NaN
  const i0 = Math.min(Math.floor(i), grid.columns - 2)
  const j0 = Math.min(Math.floor(j), grid.rows - 2)
  const u = i - i0
  const v = j - j0
  const at = (di: number, dj: number): number => grid.values[(j0 + dj) * grid.columns + i0 + di]!
  return (1 - v) * ((1 - u) * at(0, 0) + u * at(1, 0)) + v * ((1 - u) * at(0, 1) + u * at(1, 1))
}

/** Contour lines at levels. Rings that d3 closes along the border of the grid are opened there. */
export function contoursOf(grid: Grid, levels: readonly number[]): Contour[] {
  const { columns, rows } = grid
  if (columns < 2 || rows < 2) return []
  const finite = Array.from(grid.values, (value) => (Number.isFinite(value) ? value : -Infinity))
  const toX = (i: number): number => grid.x[0] + ((i - 0.5) / (columns - 1)) * (grid.x[1] - grid.x[0])
  const toY = (j: number): number => grid.y[0] + ((j - 0.5) / (rows - 1)) * (grid.y[1] - grid.y[0])
  const generate = contours().size([columns, rows])
  return levels.map((level) => {
    const lines: number[][] = []
    for (const polygon of generate.contour(finite, level).coordinates) {
      for (const ring of polygon) lines.push(...opened(ring as [number, number][], columns, rows))
    }
    return { level, lines: lines.map((line) => line.map((value, at) => (at % 2 === 0 ? toX(value) : toY(value)))) }
  })
}

/** Parts of a ring that do not run along the border of the grid, which d3 draws half a cell outside of it. */
function opened(ring: readonly [number, number][], columns: number, rows: number): number[][] {
  const along = ([ax, ay]: [number, number], [bx, by]: [number, number]): boolean => {
    const edge = (value: number, end: number): boolean => value <= 0.5 || value >= end - 0.5
    return (edge(ax, columns) && edge(bx, columns)) || (edge(ay, rows) && edge(by, rows))
  }
  const parts: number[][] = []
  let part: number[] = []
  for (let index = 0; index + 1 < ring.length; index += 1) {
    const a = ring[index]!
    const b = ring[index + 1]!
    if (along(a, b)) {
      if (part.length > 2) parts.push(part)
      part = []
      continue
    }
    if (part.length === 0) part.push(a[0], a[1])
    part.push(b[0], b[1])
  }
  if (part.length > 2) parts.push(part)
  return parts
}
