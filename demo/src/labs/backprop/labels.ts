/** What of a neuron's numbers is written, and where, by the room that it has. */
import { format } from '../../stage/numbers'
import { FULL_DOWN, type Box, type Layout, type Neuron, type Point } from './layout'

/** full: sum, output, delta and bias; short: output and delta; none: the numbers are in the table and under the pointer. */
export type Detail = 'full' | 'short' | 'none'

export const LABEL = { width: 66, line: 13 }

export function detailOf(layout: Layout, sizes: number[]): Detail {
  const most = Math.max(...sizes)
  const room = (layout.vertical ? layout.width : layout.height) / most
  if (layout.vertical) return room >= FULL_DOWN ? 'full' : room >= 62 ? 'short' : 'none'
  return room >= 108 ? 'full' : room >= 56 ? 'short' : 'none'
}

/** Where the bias of a neuron is written: above it, or beside it where layers go downward. The middle of two lines. */
export function biasPlace(neuron: Neuron, vertical: boolean): Point {
  return vertical
    ? { x: neuron.x + neuron.radius + 4 + LABEL.width / 2, y: neuron.y - LABEL.line * 0.6 }
    : { x: neuron.x, y: neuron.y - neuron.radius - 8 - LABEL.line }
}

/** Where the delta is written: below the neuron, or below its bias. The middle of the line. */
export function deltaPlace(neuron: Neuron, vertical: boolean, detail: Detail): Point {
  if (vertical && detail === 'full' && neuron.layer > 0) {
    return { x: neuron.x + neuron.radius + 4 + LABEL.width / 2, y: neuron.y + LABEL.line * 1.3 }
  }
  return { x: neuron.x, y: neuron.y + neuron.radius + 10 }
}

/** Boxes of these labels: numbers of edges keep away from them. */
export function neuronBoxes(layout: Layout, detail: Detail): Box[] {
  if (detail === 'none') return []
  return layout.neurons.flatMap((neuron) => {
    if (layout.vertical && neuron.layer === 0) return [] // inputs have no delta there
    const boxes: Box[] = [{ ...deltaPlace(neuron, layout.vertical, detail), width: LABEL.width, height: LABEL.line + 2 }]
    if (detail === 'full' && neuron.layer > 0) {
      boxes.push({ ...biasPlace(neuron, layout.vertical), width: LABEL.width, height: LABEL.line * 2 + 2 })
    }
    return boxes
  })
}

/** Inputs and targets as they were given where they are whole, without digits that nobody wrote. */
export function short(value: number | null | undefined): string {
  return Number.isInteger(value) && Math.abs(value as number) < 10_000 ? String(value).replace('-', '−') : format(value)
}
