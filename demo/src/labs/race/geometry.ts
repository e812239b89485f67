/** Where things lie in the 2-D picture, and how the eye of the 3-D one looks at them. */

import type { Range } from './state'

export interface Frame {
  /** The rectangle that the domain fills, in pixels. */
  left: number
  top: number
  width: number
  height: number
  x: Range
  y: Range
  /** Whether a unit along x is as long as one along y. */
  equal: boolean
}

export interface Margins {
  left: number
  right: number
  top: number
  bottom: number
}

/** Boxes that are this much longer than wide are stretched to fill the picture. */
const LONGEST = 2.4

/** Fit a domain into a picture: with equal units where that leaves enough of the picture in use. */
export function frameOf(width: number, height: number, x: Range, y: Range, margins: Margins): Frame {
  const room = {
    width: Math.max(width - margins.left - margins.right, 10),
    height: Math.max(height - margins.top - margins.bottom, 10),
  }
  const ratio = (x[1] - x[0]) / (y[1] - y[0])
  const equal = ratio <= LONGEST && ratio >= 1 / LONGEST
  const scale = Math.min(room.width / ratio, room.height)
  const w = equal ? scale * ratio : room.width
  const h = equal ? scale : room.height
  return {
    left: margins.left + (room.width - w) / 2,
    top: margins.top + (room.height - h) / 2,
    width: w,
    height: h,
    x,
    y,
    equal,
  }
}

export function toPixel(frame: Frame, x: number, y: number): [number, number] {
  return [
    frame.left + ((x - frame.x[0]) / (frame.x[1] - frame.x[0])) * frame.width,
    frame.top + (1 - (y - frame.y[0]) / (frame.y[1] - frame.y[0])) * frame.height,
  ]
}

export function toDomain(frame: Frame, px: number, py: number): [number, number] {
  return [
    frame.x[0] + ((px - frame.left) / frame.width) * (frame.x[1] - frame.x[0]),
    frame.y[0] + (1 - (py - frame.top) / frame.height) * (frame.y[1] - frame.y[0]),
  ]
}

export function inside(frame: Frame, px: number, py: number): boolean {
  return px >= frame.left && px <= frame.left + frame.width && py >= frame.top && py <= frame.top + frame.height
}

/** A number with as many digits as a pixel of the picture tells: starts that are clicked are round. */
export function roundTo(value: number, span: number): number {
  const unit = 10 ** Math.floor(Math.log10(span / 200))
  return Number((Math.round(value / unit) * unit).toPrecision(12))
}

/** Round numbers between low and high, about `count` of them. */
export function roundTicks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / Math.max(count, 1)
  const power = 10 ** Math.floor(Math.log10(rough))
  const unit = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999) ?? 10 * power
  const ticks: number[] = []
  for (let index = Math.ceil(low / unit - 1e-9); index * unit <= high + 1e-9 * unit; index += 1) {
    ticks.push(Number((index * unit).toPrecision(12)))
  }
  return ticks
}

/** Half the length of the scene along x and along y, and its height; the longer side is 1. */
export interface Solid {
  x: number
  y: number
  height: number
}

export function solidOf(x: Range, y: Range): Solid {
  const ratio = Math.min(Math.max((x[1] - x[0]) / (y[1] - y[0]), 1 / LONGEST), LONGEST)
  return ratio >= 1 ? { x: 1, y: 1 / ratio, height: 0.72 } : { x: ratio, y: 1, height: 0.72 }
}

/** A place of the domain in the scene: x to the right, y away from the eye. */
export function toScene(solid: Solid, x: Range, y: Range, px: number, py: number): [number, number] {
  return [solid.x * (2 * ((px - x[0]) / (x[1] - x[0])) - 1), solid.y * (2 * ((py - y[0]) / (y[1] - y[0])) - 1)]
}

export function fromScene(solid: Solid, x: Range, y: Range, sx: number, sy: number): [number, number] {
  return [x[0] + ((sx / solid.x + 1) / 2) * (x[1] - x[0]), y[0] + ((sy / solid.y + 1) / 2) * (y[1] - y[0])]
}

export type Eye = [number, number, number]

/** Where the eye is: turn and height in degrees, distance in units of the scene. Height is the third number. */
export function eyePlace(eye: Eye, distance: number): [number, number, number] {
  const turn = (eye[0] * Math.PI) / 180
  const up = (eye[1] * Math.PI) / 180
  const far = distance * eye[2]
  return [far * Math.cos(up) * Math.sin(turn), -far * Math.cos(up) * Math.cos(turn), far * Math.sin(up)]
}

/** The eye after a drag by so many pixels. It stays above the ground and short of the zenith. */
export function turned(eye: Eye, dx: number, dy: number): Eye {
  const turn = ((((eye[0] - dx * 0.4 + 180) % 360) + 360) % 360) - 180
  return [Math.round(turn * 10) / 10, Math.round(Math.min(Math.max(eye[1] + dy * 0.4, 8), 88) * 10) / 10, eye[2]]
}

export function zoomed(eye: Eye, factor: number): Eye {
  return [eye[0], eye[1], Math.round(Math.min(Math.max(eye[2] * factor, 0.45), 2.2) * 1000) / 1000]
}
