/** Points that a person pastes: rows of numbers, the target last. */

export interface Points {
  inputs: number[][]
  targets: number[]
}

export interface Mistake {
  /** The line, counted from 1. */
  line: number
  reason: 'number' | 'columns' | 'few' | 'many'
  found: string
}

export const MOST_POINTS = 500
export const MOST_COLUMNS = 8

/**
 * Reads rows that commas, semicolons, tabs or blanks separate. A first line without a number is a heading. Lines that are
 * empty or begin with # are passed over. Everything that is wrong is told at once, up to five lines.
 */
export function parseCsv(text: string): Points | Mistake[] {
  const points: Points = { inputs: [], targets: [] }
  const mistakes: Mistake[] = []
  let width = 0
  let first = true
  text.split(/\r\n|\r|\n/).forEach((raw, at) => {
    const line = raw.trim()
    if (line === '' || line.startsWith('#') || mistakes.length >= 5) return
    const cells = split(line)
    const values = cells.map((cell) => (cell === '' ? NaN : Number(cell)))
    const heading = first && values.every((value) => Number.isNaN(value))
    first = false
    if (heading) return
    const wrong = values.findIndex((value) => !Number.isFinite(value))
    if (wrong >= 0) mistakes.push({ line: at + 1, reason: 'number', found: cells[wrong] ?? '' })
    else if (values.length < 2 || values.length > MOST_COLUMNS + 1 || (width > 0 && values.length !== width)) {
      mistakes.push({ line: at + 1, reason: 'columns', found: String(values.length) })
    } else {
      width = values.length
      points.inputs.push(values.slice(0, -1))
      points.targets.push(values[values.length - 1] as number)
    }
  })
  if (mistakes.length > 0) return mistakes
  if (points.inputs.length === 0) return [{ line: 1, reason: 'few', found: '0' }]
  if (points.inputs.length > MOST_POINTS) return [{ line: 1, reason: 'many', found: String(points.inputs.length) }]
  return points
}

function split(line: string): string[] {
  const mark = [';', '\t', ','].find((each) => line.includes(each))
  return (mark === undefined ? line.split(/\s+/) : line.split(mark)).map((each) => each.trim())
}

export function toCsv(points: Points): string {
  return points.inputs.map((row, i) => [...row, points.targets[i]].join(', ')).join('\n')
}
