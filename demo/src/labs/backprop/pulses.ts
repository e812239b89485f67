/**
 * The phases of one pass, as the scrubber counts them, for a network of so many layers:
 * 0 the inputs; 1 … L the layers forward; L + 1 the loss; L + 2 … 2 L + 1 the deltas back, the last layer first
 * 2 L + 2 the gradients with respect to the inputs, and the updates. Between two whole numbers a pulse is on its way.
 */

export function lastPhase(layers: number): number {
  return 2 * layers + 2
}

/** Whether a layer's sums and outputs are known. Layer 0 is the input. */
export function outputKnown(position: number, layer: number): boolean {
  return position >= layer
}

export function lossKnown(position: number, layers: number): boolean {
  return position >= layers + 1
}

/** Whether a layer's deltas, and so the gradients of its weights, are known. */
export function deltaKnown(position: number, layer: number, layers: number): boolean {
  return position >= layers + 2 + (layers - layer)
}

export interface Pulse {
  direction: 'forward' | 'backward'
  /** The layer whose incoming edges the pulse is on; L + 1 is the way between outputs and loss. */
  layer: number
  /** The share of the way from the edge's left end, 0 … 1. */
  share: number
}

/** The pulse at a position between two phases; null at rest. */
export function pulseAt(position: number, layers: number): Pulse | null {
  const start = Math.floor(position)
  const part = position - start
  if (part === 0 || position < 0 || position >= lastPhase(layers)) return null
  if (start <= layers) return { direction: 'forward', layer: start + 1, share: part }
  return { direction: 'backward', layer: 2 * layers + 2 - start, share: 1 - part }
}

export type PhaseName = 'input' | 'forward' | 'loss' | 'backward' | 'update'

/** What is happening at a position, and in which layer (counted from 1). */
export function phaseAt(position: number, layers: number): { name: PhaseName; layer: number } {
  const at = Math.min(Math.max(Math.ceil(position), 0), lastPhase(layers))
  if (at === 0) return { name: 'input', layer: 0 }
  if (at <= layers) return { name: 'forward', layer: at }
  if (at === layers + 1) return { name: 'loss', layer: layers }
  if (at <= 2 * layers + 1) return { name: 'backward', layer: 2 * layers + 2 - at }
  return { name: 'update', layer: 0 }
}
