/**
 * The samples of the lab. Samples are inputs of requests: every request carries them, and nothing is computed from them here.
 * Coordinates have three decimals, so that a link gives the same numbers in every browser.
 */
import { parseCsv, type Points } from './csv'

export const DATASETS = ['xor', 'line', 'circles', 'spiral', 'moons', 'own'] as const
export type DatasetName = (typeof DATASETS)[number]

export interface Samples extends Points {
  /** Whether targets are classes, counted from 0, or measured values. */
  kind: 'classes' | 'values'
}

/** Heaton's order of the four patterns. */
const XOR: Samples = {
  kind: 'classes',
  inputs: [
    [1, 0],
    [0, 0],
    [0, 1],
    [1, 1],
  ],
  targets: [1, 0, 1, 0],
}

const LINE: Samples = { kind: 'values', inputs: [[0.5], [2.3], [2.9]], targets: [1.4, 1.9, 3.2] }

/** Random numbers between 0 and 1 from a seed (mulberry32): the same in every browser. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}

type Curve = (share: number, kind: number) => [number, number]

const CURVES: Record<'circles' | 'spiral' | 'moons', Curve> = {
  circles: (share, kind) => {
    const radius = kind === 1 ? 0.4 : 0.9
    return [radius * Math.cos(2 * Math.PI * share), radius * Math.sin(2 * Math.PI * share)]
  },
  spiral: (share, kind) => {
    const radius = 0.1 + 0.85 * share
    const angle = 1.5 * Math.PI * share + kind * Math.PI
    return [radius * Math.cos(angle), radius * Math.sin(angle)]
  },
  moons: (share, kind) => {
    const [x, y] = [Math.cos(Math.PI * share), Math.sin(Math.PI * share)]
    return kind === 0 ? [0.6 * (x - 0.5), 0.6 * (y - 0.25)] : [0.6 * (0.5 - x), 0.6 * (0.25 - y)]
  },
}

function generated(curve: Curve, count: number, noise: number, seed: number): Samples {
  const random = randomNumbers(seed + 1)
  const samples: Samples = { kind: 'classes', inputs: [], targets: [] }
  for (let i = 0; i < count; i += 1) {
    const kind = i % 2
    const share = (Math.floor(i / 2) + 0.5) / Math.ceil(count / 2)
    const point = curve(share, kind)
    // The sum of four uniform numbers is close to a normal one, and is the same in every browser.
    const shift = () => noise * (random() + random() + random() + random() - 2) * 1.7
    samples.inputs.push([rounded(point[0] + shift()), rounded(point[1] + shift())])
    samples.targets.push(kind)
  }
  return samples
}

function rounded(value: number): number {
  return Math.round(value * 1000) / 1000 + 0
}

export interface DataChoice {
  data: DatasetName
  own: string
  points: number
  noise: number
  dataSeed: number
}

/** The samples of a choice; of own points, null where the text cannot be read. */
export function samplesOf(choice: DataChoice): Samples | null {
  switch (choice.data) {
    case 'xor':
      return XOR
    case 'line':
      return LINE
    case 'own': {
      const points = parseCsv(choice.own)
      return Array.isArray(points) ? null : { ...points, kind: kindOf(points.targets) }
    }
    default:
      return generated(CURVES[choice.data], choice.points, choice.noise, choice.dataSeed)
  }
}

/** Up to ten whole numbers from 0 are classes; everything else is measured. */
export function kindOf(targets: number[]): Samples['kind'] {
  const classes = new Set(targets)
  const whole = targets.every((each) => Number.isInteger(each) && each >= 0 && each < 10)
  return whole && classes.size > 1 ? 'classes' : 'values'
}

/** Takes a share of the samples out for validation: every so-manieth, of each class alike. */
export function split(samples: Samples, share: number): { training: number[]; validation: number[] } {
  const training: number[] = []
  const validation: number[] = []
  const seen = new Map<number, number>()
  samples.inputs.forEach((_, i) => {
    const group = samples.kind === 'classes' ? (samples.targets[i] as number) : 0
    const before = seen.get(group) ?? 0
    seen.set(group, before + 1)
    const held = Math.floor((before + 1) * share + 1e-9) > Math.floor(before * share + 1e-9)
    const part = held ? validation : training
    part.push(i)
  })
  return training.length > 0 ? { training, validation } : { training: validation, validation: training }
}
