/** The plane (or line) of inputs that the decision boundary is asked on, and its picture. */

export interface Range {
  low: number
  high: number
}

export interface Plane {
  columns: number
  rows: number
  x: Range
  /** For one input, y is not an input. */
  y: Range | null
  inputs: number[][]
}

/** The range of a column of the data, with a margin. */
export function rangeOf(inputs: number[][], column: number, margin = 0.25): Range {
  const values = inputs.map((row) => row[column] as number)
  const [low, high] = [Math.min(...values), Math.max(...values)]
  const pad = (high - low || 1) * margin
  return { low: low - pad, high: high + pad }
}

/**
 * A grid of inputs over the data, row by row from the top. With more than two inputs the others stay at the values of `rest`.
 */
export function planeOf(inputs: number[][], size: number, rest: number[] = []): Plane {
  const width = inputs[0]?.length ?? 1
  const x = rangeOf(inputs, 0)
  if (width === 1) {
    const columns = size * 3
    return { columns, rows: 1, x, y: null, inputs: Array.from({ length: columns }, (_, i) => [at(x, i, columns)]) }
  }
  const y = rangeOf(inputs, 1)
  const grid: number[][] = []
  for (let j = 0; j < size; j += 1) {
    for (let i = 0; i < size; i += 1) {
      const others = Array.from({ length: width - 2 }, (_, k) => rest[k + 2] ?? 0)
      grid.push([at(x, i, size), at(y, size - 1 - j, size), ...others])
    }
  }
  return { columns: size, rows: size, x, y, inputs: grid }
}

/** Six decimals: the request stays short, and the places stay where they are drawn. */
function at(range: Range, index: number, count: number): number {
  return Number((range.low + ((range.high - range.low) * index) / (count - 1)).toFixed(6))
}

export type Rgb = [number, number, number]

/** Mixes low → middle → high for a share of -1 … 1; what is not a number becomes the middle. */
export function mix(share: number, low: Rgb, middle: Rgb, high: Rgb): Rgb {
  const part = Number.isFinite(share) ? Math.max(-1, Math.min(1, share)) : 0
  const end = part < 0 ? low : high
  const weight = Math.abs(part)
  return middle.map((each, i) => Math.round(each + ((end[i] as number) - each) * weight)) as Rgb
}

/** Outputs as shares of -1 … 1 around the middle between two classes. */
export function shares(outputs: number[], low: number, high: number): number[] {
  const middle = (low + high) / 2
  const half = (high - low) / 2 || 1
  return outputs.map((each) => (each - middle) / half)
}

/** The class that a row of outputs says: the larger side of the middle, or the largest of several. */
export function classOf(row: number[], middle: number): number {
  if (row.length === 1) return (row[0] as number) > middle ? 1 : 0
  return row.reduce((best, each, i) => (each > (row[best] as number) ? i : best), 0)
}

/** How many samples of each class were said to be of which: rows are classes, columns what the outputs say. */
export function confusion(outputs: number[][], classes: number[], middle: number, count: number): number[][] {
  const table = Array.from({ length: count }, () => Array.from({ length: count }, () => 0))
  outputs.forEach((row, i) => {
    const line = table[classes[i] as number]
    const said = Math.min(classOf(row, middle), count - 1)
    if (line) line[said] = (line[said] ?? 0) + 1
  })
  return table
}
