/** Contour lines of numbers on a grid, in the coordinates of the plane. */

import { contours } from 'd3-contour'

export type Point = [number, number]
export interface Contour {
  level: number
  lines: Point[][]
}
export interface Box {
  x: readonly [number, number]
  y: readonly [number, number]
}

/**
 * Lines at each level. `rows` are values at equal distances over the box, the first row at its bottom; the first and
 * last of each lie on its border. d3-contour closes rings along the border; those pieces are no contour and are left out.
 */
export function contourLines(rows: readonly (readonly (number | null)[])[], levels: readonly number[], box: Box): Contour[] {
  const height = rows.length
  const width = rows[0]?.length ?? 0
  if (width < 2 || height < 2) return []
  const values = rows.flatMap((row) => row.map((value) => value ?? NaN))
  const make = contours().size([width, height]).smooth(true)
  // d3 places the value of a cell at its middle.
  const x = (column: number): number => box.x[0] + ((column - 0.5) / (width - 1)) * (box.x[1] - box.x[0])
  const y = (row: number): number => box.y[0] + ((row - 0.5) / (height - 1)) * (box.y[1] - box.y[0])
  return levels.map((level) => {
    const lines: Point[][] = []
    for (const polygon of make.contour(values, level).coordinates) {
      for (const ring of polygon) {
        for (const piece of inside(ring as Point[], width, height)) lines.push(piece.map(([c, r]) => [x(c), y(r)]))
      }
    }
    return { level, lines }
  })
}

/** The pieces of a ring that do not run along the border. */
export function inside(ring: readonly Point[], width: number, height: number): Point[][] {
  const outside = ([c, r]: Point): boolean => c <= 0.5 || r <= 0.5 || c >= width - 0.5 || r >= height - 0.5
  const pieces: Point[][] = []
  let piece: Point[] = []
  ring.forEach((point, index) => {
    const before = ring[index - 1]
    if (before && outside(before) && outside(point)) {
      if (piece.length > 1) pieces.push(piece)
      piece = []
    }
    piece.push(point)
  })
  if (piece.length > 1) pieces.push(piece)
  return pieces
}

/** Lines as the `d` of an SVG path. */
export function pathOf(lines: readonly (readonly Point[])[], x: (value: number) => number, y: (value: number) => number): string {
  return lines
    .map((line) => `M${line.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join('L')}`)
    .join('')
}
