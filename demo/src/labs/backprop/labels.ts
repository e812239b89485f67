/** What of a neuron's numbers is written, and where, by the room that it has. */
import type { Box, Layout, Neuron, Point } from './layout'

/** full: sum, output, delta and bias; short: output and delta; none: the numbers are in the table and under the pointer. */
export type Detail = 'full' | 'short' | 'none'

export const LABEL = { width: 62, line: 13 }

export function detailOf(layout: Layout, sizes: number[]): Detail {
  const most = Math.max(...sizes)
  const room = (layout.vertical ? layout.width : layout.height) / most
  if (layout.vertical) return room >= 92 ? 'full' : room >= 62 ? 'short' : 'none'
  return room >= 108 ? 'full' : room >= 56 ? 'short' : 'none'
}

/** Where the bias of a neuron is written: above it, or below where layers go downward. */
export function biasPlace(neuron: Neuron, vertical: boolean): Point {
  return vertical
    ? { x: neuron.x, y: neuron.y + neuron.radius + 12 }
    : { x: neuron.x, y: neuron.y - neuron.radius - 22 }
}

/** Where the delta is written. */
export function deltaPlace(neuron: Neuron, vertical: boolean, detail: Detail): Point {
  const below = vertical && detail === 'full' && neuron.layer > 0 ? LABEL.line * 2 : 0
  return { x: neuron.x, y: neuron.y + neuron.radius + 12 + below }
}

/** Boxes of these labels: numbers of edges keep away from them. */
export function neuronBoxes(layout: Layout, detail: Detail): Box[] {
  if (detail === 'none') return []
  return layout.neurons.flatMap((neuron) => {
    const boxes: Box[] = [
      { ...deltaPlace(neuron, layout.vertical, detail), width: LABEL.width, height: LABEL.line + 2 },
    ]
    if (detail === 'full' && neuron.layer > 0) {
      const place = biasPlace(neuron, layout.vertical)
      boxes.push({ x: place.x, y: place.y + LABEL.line / 2, width: LABEL.width, height: LABEL.line * 2 + 2 })
    }
    return boxes
  })
}
