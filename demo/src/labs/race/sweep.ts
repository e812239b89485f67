/** The plan of a sweep: learning rates by another option of an optimizer, in requests of at most a hundred runs. */

import type { Option } from '../../api/catalogue'
import type { Choice } from './state'

export interface Sweep {
  rates: number[]
  /** Values of the second option; empty: only the learning rate is swept. */
  others: number[]
  option: string
}

/** Runs that one request may have. */
const MOST = 100

/** Options worth sweeping beside the learning rate: numbers between 0 and 1 that say how much is kept. */
export function sweepable(options: readonly Option[]): string[] {
  return options
    .filter((option) => option.type === 'number' && option.name !== 'learning_rate')
    .filter((option) => option.exclusive_maximum === 1 || option.name === 'momentum')
    .map((option) => option.name)
}

/** Learning rates a factor of 30 to both sides of the present one, and values from 0 towards 1. */
export function planOf(choice: Choice, option: string, columns = 20, rows = 10): Sweep {
  const rate = typeof choice['learning_rate'] === 'number' && choice['learning_rate'] > 0 ? choice['learning_rate'] : 0.01
  const rates = Array.from({ length: columns }, (_, index) =>
    Number((rate * 10 ** (-1.5 + (3 * index) / (columns - 1))).toPrecision(3)),
  )
  const others = option ? Array.from({ length: rows }, (_, index) => Number(((0.99 * index) / (rows - 1)).toPrecision(3))) : []
  return { rates, others, option }
}

/** The optimizers of the sweep, row by row. */
export function choicesOf(choice: Choice, sweep: Sweep): Choice[] {
  const rows = sweep.others.length ? sweep.others : [undefined]
  return rows.flatMap((other) =>
    sweep.rates.map((rate) => ({ ...choice, learning_rate: rate, ...(other === undefined ? {} : { [sweep.option]: other }) })),
  )
}

export function batchesOf<T>(all: readonly T[], most = MOST): T[][] {
  return Array.from({ length: Math.ceil(all.length / most) }, (_, index) => all.slice(index * most, (index + 1) * most))
}

/** Colour place of an end value: 0 lowest to 1 highest, even in the logarithm of what is left above the lowest. */
export function placesOf(values: readonly (number | null)[], start: number): (number | null)[] {
  const finite = values.filter((value): value is number => value !== null && Number.isFinite(value))
  const lowest = Math.min(...finite)
  const span = start - lowest
  if (!(span > 0)) return values.map((value) => (value === null ? null : 0))
  const floor = 1e-6
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null
    const left = Math.max((value - lowest) / span, floor)
    return Math.min(1, 1 - Math.log10(left) / Math.log10(floor))
  })
}
