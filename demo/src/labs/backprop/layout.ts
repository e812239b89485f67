/**
 * Where neurons, edges and their numbers stand. Layers go from left to right, or from top to bottom where there is little
 * width. Pure geometry: sizes are in pixels of the picture.
 */
import { addressOf } from './parameters'

export interface Point {
  x: number
  y: number
}

export interface Neuron extends Point {
  /** 0 is the input. */
  layer: number
  unit: number
  radius: number
}

export interface Edge {
  /** `hidden.kernel[0][1]` */
  address: string
  /** The layer that the edge leads to, from 1. */
  layer: number
  from: number
  to: number
  start: Point
  end: Point
}

export interface Layout {
  width: number
  height: number
  vertical: boolean
  neurons: Neuron[]
  edges: Edge[]
  loss: Point & { radius: number }
}

/** Below this width layers go from top to bottom. */
export const NARROW = 560
/** Downward, a neuron with so much width has its numbers beside it. */
export const FULL_DOWN = 136

/**
 * @param sizes units of each layer, the input first
 * @param names layer names, the input left out
 */
export function layoutOf(sizes: number[], names: string[], width: number, height: number): Layout {
  const vertical = width < NARROW
  const most = Math.max(...sizes)
  // Downward, the loss stands beside a single output, so that the whole network fits on a phone.
  const beside = vertical && (sizes[sizes.length - 1] as number) <= 1 && most <= 4
  const stations = sizes.length + (beside ? 0 : 1)
  const room = (vertical ? width : height) / most
  const radius = Math.max(9, Math.min(vertical ? 23 : 30, room * 0.36))
  const shift = vertical && room >= FULL_DOWN ? 24 : 0
  const across = (vertical ? width : height) - shift * 2
  const tall = vertical ? Math.max(height, (stations - 1) * (radius * 2 + 60) + radius * 2 + 56) : height
  const along = vertical ? tall : width
  const [first, last] = vertical ? [radius + 20, radius + 30] : [radius + 34, 52]
  const station = (at: number) => first + ((along - first - last) * at) / Math.max(1, stations - 1)
  const place = (layer: number, unit: number): Point => {
    const count = sizes[layer] as number
    const spread = across / most
    const side = across / 2 + (unit - (count - 1) / 2) * (vertical ? spread : Math.min(spread, 200))
    return vertical ? { x: side, y: station(layer) } : { x: station(layer), y: side }
  }
  const neurons: Neuron[] = sizes.flatMap((count, layer) =>
    Array.from({ length: count }, (_, unit) => ({ layer, unit, radius, ...place(layer, unit) })),
  )
  const edges: Edge[] = []
  for (let layer = 1; layer < sizes.length; layer += 1) {
    for (let from = 0; from < (sizes[layer - 1] as number); from += 1) {
      for (let to = 0; to < (sizes[layer] as number); to += 1) {
        const address = addressOf(names[layer - 1] as string, 'kernel', [from, to])
        edges.push({ address, layer, from, to, ...cut(place(layer - 1, from), place(layer, to), radius) })
      }
    }
  }
  const middle = across / 2
  const end = station(stations - 1)
  const lossRadius = Math.max(17, Math.min(radius, 24))
  const loss = beside ? { x: width - lossRadius - 14, y: end } : vertical ? { x: middle, y: end } : { x: end, y: middle }
  return { width, height: tall, vertical, neurons, edges, loss: { ...loss, radius: lossRadius } }
}

/** The part of a line that is outside the circles at its ends. */
export function cut(start: Point, end: Point, radius: number): { start: Point; end: Point } {
  const length = Math.hypot(end.x - start.x, end.y - start.y) || 1
  const step = { x: ((end.x - start.x) / length) * radius, y: ((end.y - start.y) / length) * radius }
  return { start: { x: start.x + step.x, y: start.y + step.y }, end: { x: end.x - step.x, y: end.y - step.y } }
}

export function along(start: Point, end: Point, share: number): Point {
  return { x: start.x + (end.x - start.x) * share, y: start.y + (end.y - start.y) * share }
}

/** Of the edges into a layer so many need room for their numbers, or none is shown. */
const SHARE = 0.65

export interface Box {
  x: number
  y: number
  width: number
  height: number
}

function overlaps(a: Box, b: Box): boolean {
  return Math.abs(a.x - b.x) * 2 < a.width + b.width && Math.abs(a.y - b.y) * 2 < a.height + b.height
}

/**
 * Finds a place on its edge for each number, so that no two numbers overlap and none lies on a neuron. Edges are served in
 * the order given; those without room get no place, and are shown when they are chosen or pointed at.
 */
export function placeLabels(
  layout: Layout,
  order: string[],
  size: { width: number; height: number },
  blocked: Box[] = [],
): Map<string, Point> {
  let best = attempt(layout, order, size, blocked)
  // Who comes first takes room from others: a few other orders may leave room for more.
  for (let turn = 1; best.size < order.length && order.length <= FEW && turn < order.length; turn += 1) {
    const found = attempt(layout, [...order.slice(turn), ...order.slice(0, turn).reverse()], size, blocked)
    if (found.size > best.size && found.has(order[0] as string)) best = found
  }
  // A layer with numbers on few of its edges tells little and hides much: it has none then.
  const edges = new Map(layout.edges.map((edge) => [edge.address, edge.layer]))
  const into = (addresses: Iterable<string>, layer: number): string[] => [...addresses].filter((address) => edges.get(address) === layer)
  for (const layer of new Set(edges.values())) {
    const placed = into(best.keys(), layer)
    if (placed.length < into(order, layer).length * SHARE) for (const address of placed) best.delete(address)
  }
  return best
}

/** Where on an edge a number may stand, the best places first. */
const SHARES = [0.36, 0.64, 0.28, 0.72, 0.5, 0.2, 0.8, 0.43, 0.57, 0.32, 0.68, 0.24, 0.76, 0.15, 0.85]
const FEW = 24

function attempt(layout: Layout, order: string[], size: { width: number; height: number }, blocked: Box[]): Map<string, Point> {
  const taken: Box[] = [...blocked]
  for (const each of layout.neurons) {
    const side = each.radius * 2 + 2
    taken.push({ x: each.x, y: each.y, width: side, height: side })
  }
  taken.push({ x: layout.loss.x, y: layout.loss.y, width: layout.loss.radius * 2, height: layout.loss.radius * 2 })
  const edges = new Map(layout.edges.map((edge) => [edge.address, edge]))
  const places = new Map<string, Point>()
  for (const address of order) {
    const edge = edges.get(address)
    if (!edge) continue
    for (const share of SHARES) {
      const box = { ...along(edge.start, edge.end, share), ...size }
      const inside = box.x - size.width / 2 >= 0 && box.x + size.width / 2 <= layout.width && box.y - size.height / 2 >= 0
      if (inside && !taken.some((each) => overlaps(each, box))) {
        taken.push(box)
        places.set(address, { x: box.x, y: box.y })
        break
      }
    }
  }
  return places
}

/** The width of an edge by the size of its weight: 1 to 7 pixels. */
export function strokeWidth(value: number, most: number): number {
  if (!Number.isFinite(value) || most === 0) return 1
  return 1 + 6 * Math.sqrt(Math.min(1, Math.abs(value) / most))
}
