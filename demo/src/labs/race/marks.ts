/** What lies over the picture of either view: balls, labels, starts, stationary points, the gradient at the pointer. */

import { css, markerOf, traceMarker, valleyColour, type Marker } from './colours'
import { FONT, halo } from './flat'
import type { Palette } from './palette'
import type { Paths, Place } from './paths'
import { placeAt } from './paths'

/** Where a place of the domain lies on the screen; `height` as the scale of values has it. null: not to be seen. */
export type Project = (x: number, y: number, value: number) => [number, number] | null

export interface Labelled {
  text: string
  optimizer: number
  x: number
  y: number
}

export function drawMarker(
  context: CanvasRenderingContext2D,
  optimizer: number,
  x: number,
  y: number,
  radius: number,
  palette: Palette,
): void {
  context.beginPath()
  traceMarker(context, markerOf(optimizer), x, y, radius)
  context.fillStyle = palette.optimizers[optimizer % palette.optimizers.length]!
  context.fill()
  context.lineWidth = 1.5
  context.strokeStyle = palette.dark ? '#0f131a' : '#ffffff'
  context.stroke()
}

/** Small markers as rectangles x, y, width, height in pixels: thousands of those are drawn in a frame, but not of outlines. */
const SMALL: Record<Marker, readonly (readonly [number, number, number, number])[]> = {
  circle: [[-3, -2, 6, 4], [-2, -3, 4, 6]],
  square: [[-3, -3, 6, 6]],
  triangle: [[-1, -3, 2, 2], [-2, -1, 4, 2], [-3, 1, 6, 2]],
  diamond: [[-3, -1, 6, 2], [-2, -2, 4, 4], [-1, -3, 2, 6]],
  cross: [[-3, -3, 2, 2], [1, -3, 2, 2], [-1, -1, 2, 2], [-3, 1, 2, 2], [1, 1, 2, 2]],
  plus: [[-3, -1, 6, 2], [-1, -3, 2, 6]],
}
/** More balls than these are small. */
const MANY = 60

/** Balls of the 2-D picture. */
export function drawBalls(context: CanvasRenderingContext2D, paths: Paths, time: number, project: Project, palette: Palette): void {
  const place: Place = { x: 0, y: 0, value: 0 }
  let filled = -1
  for (let run = 0; run < paths.runs; run += 1) {
    placeAt(paths, run, time, place)
    const at = project(place.x, place.y, place.value)
    if (!at) continue
    const optimizer = paths.optimizer[run]!
    if (paths.runs <= MANY) {
      drawMarker(context, optimizer, at[0], at[1], 7, palette)
      continue
    }
    if (filled !== optimizer) context.fillStyle = palette.optimizers[optimizer % palette.optimizers.length]!
    filled = optimizer
    for (const [dx, dy, w, h] of SMALL[markerOf(optimizer)]) context.fillRect(at[0] + dx, at[1] + dy, w, h)
  }
}

/** Names at the ends of ways, moved apart where they would cover each other. */
export function drawLabels(
  context: CanvasRenderingContext2D,
  labels: readonly Labelled[],
  palette: Palette,
  width: number,
): void {
  context.font = `600 ${FONT}`
  context.textBaseline = 'middle'
  const placed: { left: number; right: number; y: number }[] = []
  for (const label of [...labels].sort((a, b) => a.y - b.y)) {
    const wide = context.measureText(label.text).width + 6
    const toRight = label.x + 14 + wide < width
    const left = toRight ? label.x + 13 : label.x - 13 - wide
    let y = label.y
    for (const other of placed) {
      if (left < other.right && left + wide > other.left && Math.abs(y - other.y) < 15) y = other.y + 15
    }
    placed.push({ left, right: left + wide, y })
    context.textAlign = toRight ? 'left' : 'right'
    context.fillStyle = palette.ink
    halo(context, label.text, toRight ? left : left + wide, y, palette)
  }
}

/** A start that can be dragged. */
export function drawStart(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
  palette: Palette,
  active: boolean,
): void {
  context.beginPath()
  context.arc(x, y, active ? 12 : 10, 0, 2 * Math.PI)
  context.lineWidth = 4
  context.strokeStyle = palette.dark ? 'rgb(15 19 26 / 0.7)' : 'rgb(255 255 255 / 0.85)'
  context.stroke()
  context.lineWidth = 1.6
  context.strokeStyle = palette.ink
  context.stroke()
  context.beginPath()
  for (const [dx, dy] of [
    [1, 0],
    [-1, 0],
    [0, 1],
    [0, -1],
  ] as const) {
    context.moveTo(x + 7 * dx, y + 7 * dy)
    context.lineTo(x + 13 * dx, y + 13 * dy)
  }
  context.stroke()
}

/** Signs of stationary points: ▾ minimum, ▴ maximum, ✕ saddle, ○ degenerate. */
export function drawStationary(
  context: CanvasRenderingContext2D,
  classification: string,
  x: number,
  y: number,
  palette: Palette,
): void {
  context.beginPath()
  if (classification === 'saddle') {
    for (const sign of [1, -1]) {
      context.moveTo(x - 4, y - 4 * sign)
      context.lineTo(x + 4, y + 4 * sign)
    }
  } else if (classification === 'degenerate') {
    context.arc(x, y, 4, 0, 2 * Math.PI)
  } else {
    const down = classification === 'minimum' ? 1 : -1
    context.moveTo(x, y + 4.5 * down)
    context.lineTo(x + 5, y - 4 * down)
    context.lineTo(x - 5, y - 4 * down)
    context.closePath()
  }
  context.lineWidth = 3.6
  context.strokeStyle = palette.dark ? 'rgb(15 19 26 / 0.8)' : 'rgb(255 255 255 / 0.9)'
  context.stroke()
  context.lineWidth = 1.4
  context.strokeStyle = palette.ink
  context.stroke()
}

/** The number of a valley on its ground. */
export function drawValley(
  context: CanvasRenderingContext2D,
  valley: number,
  x: number,
  y: number,
  palette: Palette,
): void {
  context.beginPath()
  context.arc(x, y, 9, 0, 2 * Math.PI)
  context.fillStyle = css(valleyColour(valley, palette.dark))
  context.fill()
  context.lineWidth = 1.5
  context.strokeStyle = palette.ink
  context.stroke()
  context.font = `600 ${FONT}`
  context.textAlign = 'center'
  context.textBaseline = 'middle'
  context.fillStyle = palette.ink
  halo(context, String(valley), x, y + 0.5, palette)
}

export function drawArrow(
  context: CanvasRenderingContext2D,
  from: readonly [number, number],
  to: readonly [number, number],
  stroke: string,
  width = 2,
): void {
  const dx = to[0] - from[0]
  const dy = to[1] - from[1]
  const length = Math.hypot(dx, dy)
  if (length < 2) return
  const head = Math.min(9, length * 0.6)
  const [ux, uy] = [dx / length, dy / length]
  context.beginPath()
  context.moveTo(from[0], from[1])
  context.lineTo(to[0] - ux * head * 0.7, to[1] - uy * head * 0.7)
  context.strokeStyle = context.fillStyle = stroke
  context.lineWidth = width
  context.stroke()
  context.beginPath()
  context.moveTo(to[0], to[1])
  context.lineTo(to[0] - ux * head - uy * head * 0.45, to[1] - uy * head + ux * head * 0.45)
  context.lineTo(to[0] - ux * head + uy * head * 0.45, to[1] - uy * head - ux * head * 0.45)
  context.fill()
}
