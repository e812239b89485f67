/** Losses of models as functions of two of their parameters. They race like any function. */

import type { Range } from './state'

export interface Model {
  name: string
  expression: string
  variables: [string, string]
  box: [Range, Range]
  start: [number, number]
}

/** The points of the line fit. The service gives its loss as an expression. */
export const LINE_POINTS: readonly (readonly [number, number])[] = [
  [0, -1],
  [1, 1],
  [2, 4],
]

/**
 * Half the squared error, summed over XOR, of a network with two hidden units and sigmoids throughout, as a function of
 * the two weights into its output. `/v1/landscape` draws the same surface from the network itself: see the guide.
 */
const KERNEL = [
  [-0.06782947598673161, 0.9487814395569221],
  [0.22341077197888182, 0.461587116462548],
] as const
const BIAS = [-0.4635107399577998, 0.09750161997450091] as const
const OUTPUT_BIAS = 0.7792991203673414
const SAMPLES = [
  [0, 0, 0],
  [0, 1, 1],
  [1, 0, 1],
  [1, 1, 0],
] as const

function xorLoss(): string {
  const hidden = (a: number, b: number, unit: 0 | 1): string => {
    const terms = [BIAS[unit], ...(a ? [KERNEL[0][unit]] : []), ...(b ? [KERNEL[1][unit]] : [])]
    return `sigmoid(${terms.join(' + ').replaceAll('+ -', '- ')})`
  }
  const errors = SAMPLES.map(
    ([a, b, target]) => `(${target} - sigmoid(v*${hidden(a, b, 0)} + w*${hidden(a, b, 1)} + ${OUTPUT_BIAS}))^2`,
  )
  return `(${errors.join(' + ')})/2`
}

export const XOR: Model = {
  name: 'model:xor',
  expression: xorLoss(),
  variables: ['v', 'w'],
  box: [
    [-8, 8],
    [-8, 8],
  ],
  start: [5, 5],
}
export const LINE = 'model:line'
