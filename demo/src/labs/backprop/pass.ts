/** The numbers of one pass, by neuron and by weight, read from an answer of `/v1/gradients`. */
import { valueAt, type Tree } from './parameters'

export interface LayerAnswer {
  name: string
  pre_activation?: number[][]
  output: number[][]
  delta?: number[][]
  norms?: { pre_activation?: number; output?: number; delta?: number }
}

export interface PassAnswer {
  loss: number | number[]
  outputs: number[][]
  gradients: Tree
  gradient_norm: number
  finite: boolean
  layers: LayerAnswer[]
  input_gradients: number[][]
  per_sample: { loss: number[]; gradients: Tree }
  norms: { gradients: Record<string, Record<string, number>>; deltas: Record<string, number> }
  parameters?: Tree
  warnings: { code: string; message: string }[]
}

/** An answer together with what was asked: numbers of different requests are never mixed. */
export interface Pass {
  request: object
  answer: PassAnswer
  parameters: Tree
  inputs: number[][]
  targets: (number | number[])[]
  /** The rows of the data set that the samples are. */
  rows: number[]
  names: string[]
}

export function passOf(
  answer: PassAnswer,
  request: { parameters?: Tree; inputs: number[][]; targets: (number | number[])[] },
  rows: number[],
): Pass {
  return {
    request,
    answer,
    parameters: request.parameters ?? answer.parameters ?? {},
    inputs: request.inputs,
    targets: request.targets,
    rows,
    names: answer.layers.map((layer) => layer.name),
  }
}

export interface NeuronNumbers {
  /** One number a sample. */
  output: number[]
  sum: number[]
  delta: number[]
  bias: number | undefined
  biasGradient: number | undefined
}

/** Layer 0 is the input: its outputs are the inputs, and its deltas are the gradients with respect to them. */
export function neuronNumbers(pass: Pass, layer: number, unit: number): NeuronNumbers {
  const column = (rows: number[][] | undefined) => (rows ?? []).map((row) => row[unit] as number)
  if (layer === 0) {
    const delta = column(pass.answer.input_gradients)
    return { output: column(pass.inputs), sum: [], delta, bias: undefined, biasGradient: undefined }
  }
  const answer = pass.answer.layers[layer - 1]
  const bias = `${pass.names[layer - 1]}.bias[${unit}]`
  return {
    output: column(answer?.output),
    sum: column(answer?.pre_activation),
    delta: column(answer?.delta),
    bias: valueAt(pass.parameters, bias),
    biasGradient: valueAt(pass.answer.gradients, bias),
  }
}

/** The loss as one number; null where the service gave a list. */
export function lossOf(pass: Pass): number | null {
  return typeof pass.answer.loss === 'number' ? pass.answer.loss : null
}

/** Sizes of all layers, the input first. */
export function sizesOf(inputs: number, layers: { units: number }[]): number[] {
  return [inputs, ...layers.map((layer) => layer.units)]
}
