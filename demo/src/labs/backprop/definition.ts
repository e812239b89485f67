/** The definition of what is computed (network, data, loss, optimizer), as the controls edit it, and its requests. */
import { DATASETS, samplesOf, split, type DatasetName, type Samples } from './datasets'
import { mostRecords, recordEvery } from '../../runs/kept'
import type { Checks, Json } from '../../stage/links'
import { isTree, shapeOf, type Tree } from './parameters'
import type { Convention } from './convention'

/** A name of the catalogue, with options where they differ from its defaults. */
export type Choice = { type: string; [option: string]: Json }

export type Layer = { units: number; activation: Choice }

export type Definition = {
  data: DatasetName
  /** Own points as text: x₁, x₂, …, target. */
  own: string
  points: number
  noise: number
  dataSeed: number
  /** The share of the samples that is kept for validation. */
  holdout: number
  layers: Layer[]
  loss: Choice
  reduction: 'sum' | 'mean'
  optimizer: Choice
  /** null: the default of the service. */
  initializer: Choice | null
  seed: number
  /** null: the preset's weights where they fit, else those that the service draws from the seed. */
  weights: Tree | null
  /** The sample that is alone, counted among those for training; -1: the whole batch. */
  sample: number
  convention: Convention
  /** Samples of a training step; null: all. */
  batch: number | null
  steps: number
  /** The training stops at a loss below this; null: it makes all steps. */
  stop: number | null
}

/** A training of more steps is handed over as a run, and every so many steps of it are recorded. */
export const MOST_LIVE = 20_000
export const MOST_STEPS = 1_000_000
/** A record has so many tensors for each parameter: gradient, update, value, and up to two of the optimizer. */
const TENSORS = 5
export const MOST_LAYERS = 6
export const MOST_UNITS = 12

const HEATON: Tree = {
  hidden: {
    kernel: [
      [-0.06782947598673161, 0.9487814395569221],
      [0.22341077197888182, 0.461587116462548],
    ],
    bias: [-0.4635107399577998, 0.09750161997450091],
  },
  output: { kernel: [[-0.22791948943117624], [0.581714099641357]], bias: [0.7792991203673414] },
}

const LINE: Tree = { output: { kernel: [[0]], bias: [0] } }

type Preset = Pick<
  Definition,
  'layers' | 'loss' | 'reduction' | 'optimizer' | 'sample' | 'steps' | 'holdout' | 'batch' | 'stop' | 'initializer'
>

const CLASSES: Preset = {
  layers: [
    { units: 4, activation: { type: 'tanh' } },
    { units: 3, activation: { type: 'tanh' } },
    { units: 1, activation: { type: 'sigmoid' } },
  ],
  loss: { type: 'binary_crossentropy' },
  reduction: 'mean',
  optimizer: { type: 'adam', learning_rate: 0.03 },
  sample: -1,
  steps: 500,
  holdout: 0.25,
  batch: null,
  stop: null,
  initializer: null,
}

/** What choosing a data set sets besides the data. */
export const PRESETS: Record<DatasetName, Preset> = {
  xor: {
    layers: [
      { units: 2, activation: { type: 'sigmoid' } },
      { units: 1, activation: { type: 'sigmoid' } },
    ],
    loss: { type: 'half_squared_error' },
    reduction: 'sum',
    optimizer: { type: 'momentum', learning_rate: 0.7 },
    sample: 0,
    steps: 500,
    holdout: 0,
    batch: null,
    stop: null,
    initializer: null,
  },
  line: {
    layers: [{ units: 1, activation: { type: 'linear' } }],
    loss: { type: 'half_squared_error' },
    reduction: 'mean',
    optimizer: { type: 'sgd', learning_rate: 0.1 },
    sample: -1,
    steps: 200,
    holdout: 0,
    batch: null,
    stop: null,
    initializer: null,
  },
  circles: CLASSES,
  moons: CLASSES,
  spiral: { ...CLASSES, layers: [{ units: 8, activation: { type: 'tanh' } }, { units: 6, activation: { type: 'tanh' } }, CLASSES.layers[2] as Layer] },
  own: CLASSES,
}

export const OWN_POINTS = '-0.6, -0.4, 0\n-0.3, 0.5, 0\n0.1, -0.7, 0\n0.4, 0.6, 1\n0.7, -0.1, 1\n0.5, 0.2, 1'

export const DEFAULTS: Definition = {
  data: 'xor',
  own: OWN_POINTS,
  points: 60,
  noise: 0.05,
  dataSeed: 0,
  seed: 0,
  weights: null,
  convention: 'standard',
  ...PRESETS.xor,
}

/** The definition with another data set, and with the network that suits it. */
export function withData(definition: Definition, data: DatasetName): Definition {
  return { ...definition, data, weights: null, ...PRESETS[data] }
}

export function layerNames(count: number): string[] {
  return Array.from({ length: count }, (_, i) => (i === count - 1 ? 'output' : count === 2 ? 'hidden' : `hidden${i + 1}`))
}

/** As requests carry it: the name alone where there are no options. */
export function sent(choice: Choice): string | Choice {
  return Object.keys(choice).length === 1 ? choice.type : choice
}

/** The choice with one option set; an option of undefined is left to the service's default. */
export function withOption(choice: Choice, name: string, value: Json | undefined): Choice {
  const { [name]: _, ...rest } = choice
  return (value === undefined ? rest : { ...rest, [name]: value }) as Choice
}

export function networkOf(definition: Definition): Record<string, unknown> {
  const names = layerNames(definition.layers.length)
  const initializer = definition.initializer === null ? {} : { kernel_initializer: sent(definition.initializer) }
  return {
    layers: definition.layers.map((layer, i) => ({
      type: 'dense',
      name: names[i],
      units: layer.units,
      activation: sent(layer.activation),
      ...initializer,
    })),
  }
}

/** The tensors' shapes that a network has, by layer. */
export function fits(tree: Tree, definition: Definition, inputs: number): boolean {
  const names = layerNames(definition.layers.length)
  if (Object.keys(tree).length !== names.length) return false
  let before = inputs
  return definition.layers.every((layer, i) => {
    const tensors = tree[names[i] as string]
    const kernel = shapeOf(tensors?.kernel)
    const bias = shapeOf(tensors?.bias)
    const good = kernel.length === 2 && kernel[0] === before && kernel[1] === layer.units && bias[0] === layer.units
    before = layer.units
    return good
  })
}

/** The weights to send: those edited, else those of the preset where they fit, else none (the service draws them). */
export function weightsOf(definition: Definition, inputs: number): Tree | null {
  const preset = definition.data === 'xor' ? HEATON : definition.data === 'line' ? LINE : null
  for (const tree of [definition.weights, definition.initializer === null ? preset : null]) {
    if (tree && fits(tree, definition, inputs)) return tree
  }
  return null
}

/** Targets as the loss takes them: indices, one-hot rows, signs, or single numbers. */
export function targetsOf(definition: Definition, samples: Samples, rows: number[]): (number | number[])[] {
  const units = definition.layers[definition.layers.length - 1]?.units ?? 1
  const loss = definition.loss.type
  return rows.map((row) => {
    const target = samples.targets[row] as number
    if (samples.kind === 'values') return Array.from({ length: units }, () => target)
    if (loss.startsWith('sparse_')) return target
    if (units === 1) return [loss.endsWith('hinge') ? (target > 0 ? 1 : -1) : target]
    const low = loss.endsWith('hinge') ? -1 : 0
    return Array.from({ length: units }, (_, k) => (k === target ? 1 : low))
  })
}

export interface Problem {
  samples: Samples
  training: number[]
  validation: number[]
  /** The rows of the request: the training rows, or the one that is alone. */
  rows: number[]
  inputs: number
}

export function problemOf(definition: Definition): Problem | null {
  const samples = samplesOf(definition)
  if (!samples) return null
  const { training, validation } = split(samples, definition.holdout)
  const one = definition.sample < 0 ? undefined : training[Math.min(definition.sample, training.length - 1)]
  return { samples, training, validation, rows: one === undefined ? training : [one], inputs: samples.inputs[0]?.length ?? 0 }
}

/** What `/v1/gradients` and its relatives take. `parameters` are those shown; null lets the service draw them. */
export function requestOf(definition: Definition, problem: Problem, parameters: Tree | null): Record<string, unknown> {
  return {
    network: networkOf(definition),
    ...(parameters ? { parameters } : { seed: definition.seed }),
    inputs: problem.rows.map((row) => problem.samples.inputs[row]),
    targets: targetsOf(definition, problem.samples, problem.rows),
    loss: sent(definition.loss),
    reduction: definition.reduction,
  }
}

/**
 * What `/v1/train` takes: always all training samples. A checkpoint goes on where a training ended. Of a thinned trace
 * only every so many steps are recorded.
 */
export function trainingOf(
  definition: Definition,
  problem: Problem,
  parameters: Tree | null,
  checkpoint: unknown = null,
  thinned = definition.steps > MOST_LIVE,
): Record<string, unknown> {
  const { samples, training, validation } = problem
  const every = thinned ? recordEvery(definition.steps, recordsOf(definition, problem.inputs)) : 1
  const start = checkpoint ? { checkpoint } : parameters ? { parameters, seed: definition.seed } : { seed: definition.seed }
  return {
    network: networkOf(definition),
    ...start,
    inputs: training.map((row) => samples.inputs[row]),
    targets: targetsOf(definition, samples, training),
    loss: sent(definition.loss),
    reduction: definition.reduction,
    optimizer: sent(definition.optimizer),
    steps: definition.steps,
    ...(definition.batch === null ? {} : { batch_size: definition.batch, shuffle: definition.batch > 1 }),
    ...(validation.length === 0
      ? {}
      : {
          validation: {
            inputs: validation.map((row) => samples.inputs[row]),
            targets: targetsOf(definition, samples, validation),
          },
        }),
    ...(definition.stop === null ? {} : { stop: { loss_below: definition.stop } }),
    trace: { include: ['gradients', 'updates', 'parameters', 'state', ...(definition.batch === null ? [] : ['batch'])], ...(every > 1 ? { every } : {}) },
  }
}

/** How many records a long training makes: fewer if each has many numbers. The page keeps twice as many if it goes on. */
export function recordsOf(definition: Definition, inputs: number): number {
  let [before, numbers] = [inputs, 0]
  for (const { units } of definition.layers) {
    numbers += (before + 1) * units
    before = units
  }
  return mostRecords(TENSORS * numbers)
}

const whole = (low: number, high: number) => (value: unknown): boolean =>
  Number.isInteger(value) && (value as number) >= low && (value as number) <= high
const between = (low: number, high: number) => (value: unknown): boolean =>
  typeof value === 'number' && value >= low && value <= high
const orNull = (good: (value: unknown) => boolean) => (value: unknown): boolean => value === null || good(value)

/** What a link may say. */
export const CHECKS: Checks<Definition> = {
  data: (value) => DATASETS.includes(value),
  own: (value) => value.length <= 20_000,
  points: whole(4, 400),
  noise: between(0, 1),
  dataSeed: whole(0, 1_000_000),
  holdout: between(0, 0.5),
  layers: (layers) =>
    layers.length >= 1 &&
    layers.length <= MOST_LAYERS &&
    layers.every((layer) => whole(1, MOST_UNITS)(layer.units) && isChoice(layer.activation)),
  loss: isChoice,
  reduction: (value) => value === 'sum' || value === 'mean',
  optimizer: isChoice,
  initializer: orNull(isChoice),
  seed: whole(0, Number.MAX_SAFE_INTEGER),
  weights: orNull(isTree),
  sample: whole(-1, 10_000),
  convention: (value) => value === 'standard' || value === 'heaton',
  batch: orNull(whole(1, 10_000)),
  steps: whole(1, MOST_STEPS),
  stop: orNull(between(0, Number.MAX_VALUE)),
}

function isChoice(value: unknown): boolean {
  return typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string'
}
