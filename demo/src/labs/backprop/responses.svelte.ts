/** What the network answers over a plane of inputs: its outputs (the decision boundary), and each neuron's response. */
import { untrack } from 'svelte'
import { asProblem, type Problem } from '../../api/problem'
import { colour } from '../../stage/theme.svelte'
import { mix, planeOf, rangeOf, type Plane, type Rgb } from './boundary'
import { Follower } from './follower'
import type { Lab } from './lab.svelte'
import { answerOf } from './service'

interface Forward {
  outputs: number[][]
  layers?: { output: number[][] }[]
}
type Question = { body: Record<string, unknown>; plane: Plane }

const FINE = 48
const COARSE = 18
/** While a training is drawn the plane follows a few times a second. */
const REST = 160

export class Responses {
  /** Outputs over the fine plane. */
  plane = $state.raw<Plane>()
  outputs = $state.raw<number[][]>([])
  problem = $state.raw<Problem>()
  #coarse = $state.raw<{ plane: Plane; inputs: number[][]; layers: number[][][] }>()
  #pictures = new Map<string, string>()

  #boundary = new Follower<Question, Forward>(
    ({ body }, signal) => answerOf<'/v1/forward', Forward>('/v1/forward', body, { signal, panel: 'backprop.boundary' }),
    (answer, { plane }) => {
      this.plane = plane
      this.outputs = answer.outputs
      this.problem = undefined
    },
    (error) => (this.problem = asProblem(error)),
    REST,
  )
  #neurons = new Follower<Question, Forward>(
    ({ body }, signal) => answerOf<'/v1/forward', Forward>('/v1/forward', body, { signal, panel: 'backprop.responses' }),
    (answer, { plane }) => {
      this.#pictures.clear()
      this.#coarse = { plane, inputs: plane.inputs, layers: (answer.layers ?? []).map((layer) => layer.output) }
    },
    () => (this.#coarse = undefined),
    REST,
  )

  constructor(lab: Lab) {
    $effect(() => {
      const weights = lab.weights
      const task = lab.task
      const network = lab.request?.network
      if (!weights || !task || !network || (!lab.fresh && !lab.training.moving)) return
      const batch = lab.state.sample < 0
      untrack(() => {
        const rest = task.samples.inputs[task.rows[0] ?? 0] ?? []
        const ask = (plane: Plane, more: Record<string, unknown> = {}): Question => ({
          plane,
          body: { network, parameters: weights, inputs: plane.inputs, ...more },
        })
        this.#boundary.want(ask(planeOf(task.samples.inputs, FINE, rest)), lab.training.moving)
        if (batch && task.inputs === 2) {
          this.#neurons.want(ask(planeOf(task.samples.inputs, COARSE), { include: ['layers'] }), lab.training.moving)
        } else this.#coarse = undefined
      })
    })
  }

  /** The picture of a neuron's response, as the address of an image. Layer 0 shows the input itself. */
  of(layer: number, unit: number): string | undefined {
    const coarse = this.#coarse
    const ends = [colour('--negative'), colour('--diverging-4'), colour('--positive')].map(rgb) as [Rgb, Rgb, Rgb]
    if (!coarse) return undefined
    const rows = layer === 0 ? coarse.inputs : coarse.layers[layer - 1]
    if (!rows || unit >= (rows[0]?.length ?? 0)) return undefined
    const key = `${layer}.${unit}.${ends.join()}`
    const known = this.#pictures.get(key)
    if (known) return known
    const values = rows.map((row) => row[unit] as number)
    const { low, high } = rangeOf(values.map((each) => [each]), 0, 0)
    // Outputs of one sign are shown between their bounds, others around 0.
    const middle = low < 0 && high > 0 ? 0 : (low + high) / 2
    const half = Math.max(high - middle, middle - low) || 1
    const url = drawn(coarse.plane, values.map((each) => (each - middle) / half), ends)
    this.#pictures.set(key, url)
    return url
  }

  abort(): void {
    this.#boundary.abort()
    this.#neurons.abort()
  }
}

function drawn(plane: Plane, shares: number[], [low, middle, high]: [Rgb, Rgb, Rgb]): string {
  const canvas = document.createElement('canvas')
  canvas.width = plane.columns
  canvas.height = plane.rows
  const context = canvas.getContext('2d')
  if (!context) return ''
  const image = context.createImageData(plane.columns, plane.rows)
  shares.forEach((share, i) => image.data.set([...mix(share, low, middle, high), 255], i * 4))
  context.putImageData(image, 0, 0)
  return canvas.toDataURL()
}

/** A colour of the theme, `#rrggbb`, as numbers. */
export function rgb(text: string): Rgb {
  const value = Number.parseInt(text.slice(1), 16)
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255]
}
