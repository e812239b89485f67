/** What lies over the picture in both views. */

import { sample } from './contours'
import { FONT, halo } from './flat'
import { roundTicks, toPixel, toScene, type Frame } from './geometry'
import { drawArrow, drawLabels, drawMarker, drawStart, drawStationary, drawValley, type Labelled, type Project } from './marks'
import type { Palette } from './palette'
import { placeAt } from './paths'
import type { Basins, PointAnswer, Race, Surface } from './race.svelte'
import type { Scene } from './scene'

export interface Overlay {
  race: Race
  surface: Surface
  palette: Palette
  project: Project
  width: number
  height: number
  time: number
  scene: Scene | undefined
  /** Where the 2-D picture lies. */
  frame: Frame | undefined
  basins: Basins | undefined
  /** The start that is being dragged; -1: none. */
  held: number
}

/** Length of the arrow of the gradient at the pointer, in pixels, at most. */
const ARROW = 56

export function drawOverlay(context: CanvasRenderingContext2D, what: Overlay): void {
  const { race, surface, palette, project } = what
  if (what.scene) drawSceneAxes(context, what, what.scene)
  const balls = ballsOf(what)
  for (const point of race.stationary.answer?.points ?? []) {
    const [x = 0, y = 0] = point.point
    const at = project(x, y, point.value)
    if (at && !balls.some((ball) => Math.hypot(ball[0] - at[0], ball[1] - at[1]) < 10)) drawStationary(context, point.classification, at[0], at[1], palette)
  }
  if (what.basins) {
    what.basins.valleys.forEach((valley, index) => {
      const at = project(valley.point[0] ?? 0, valley.point[1] ?? 0, valley.value)
      if (at) drawValley(context, index, at[0], at[1], palette)
    })
  }
  if (race.state.starts === 'points') {
    race.state.points.forEach((point, index) => {
      const at = project(point[0]!, point[1] ?? 0, heightAt(surface, point))
      if (at) drawStart(context, at[0], at[1], palette, what.held === index)
    })
  }
  drawFocus(context, what)
  drawNames(context, what)
  drawPointer(context, what)
}

/** Where the balls of a few runs are: signs of the ground make room for them. */
function ballsOf({ race, project, time }: Overlay): [number, number][] {
  const drawn = race.drawn
  if (!drawn || drawn.paths.runs > 60) return []
  return drawn.runs.flatMap((_, index) => {
    const place = placeAt(drawn.paths, index, time)
    const at = project(place.x, place.y, place.value)
    return at ? [at] : []
  })
}

function heightAt(surface: Surface, point: readonly number[]): number {
  return sample(surface.grid, point[0]!, surface.dimensions === 1 ? 0.5 : point[1]!)
}

/** Names at the balls of a few runs. */
function drawNames(context: CanvasRenderingContext2D, { race, surface, palette, project, width, time, frame }: Overlay): void {
  const drawn = race.drawn
  if (!drawn || drawn.starts > 1 || race.state.slow) return
  const labels: Labelled[] = []
  drawn.runs.forEach((run, index) => {
    const place = placeAt(drawn.paths, index, time)
    const at = project(place.x, place.y, place.value)
    const name = drawn.optimizers[run.optimizer]!.type
    if (at) labels.push({ text: name, optimizer: run.optimizer, x: at[0], y: at[1] })
    else if (frame) {
      // A ball that has left the picture is shown at its border.
      const [px, py] = toPixel(frame, place.x, surface.dimensions === 1 ? place.value : place.y)
      const x = Math.min(Math.max(px, frame.left + 8), frame.left + frame.width - 8)
      const y = Math.min(Math.max(py, frame.top + 8), frame.top + frame.height - 8)
      drawMarker(context, run.optimizer, x, y, 5, palette)
      labels.push({ text: `${name} ↗`, optimizer: run.optimizer, x, y })
    }
  })
  drawLabels(context, labels, palette, width)
}

/** A ring around the ball that evidence is about, where there are many. */
function drawFocus(context: CanvasRenderingContext2D, { race, palette, project, time }: Overlay): void {
  const drawn = race.drawn
  const run = race.focused
  if (!drawn || !run || (drawn.starts === 1 && !race.state.slow)) return
  const index = drawn.runs.indexOf(run)
  const place = placeAt(drawn.paths, index, time)
  const at = project(place.x, place.y, place.value)
  if (!at) return
  if (drawn.starts > 1) drawMarker(context, run.optimizer, at[0], at[1], 6, palette)
  context.beginPath()
  context.arc(at[0], at[1], 12, 0, 2 * Math.PI)
  context.lineWidth = 2
  context.strokeStyle = palette.accent
  context.stroke()
}

/** Minus the gradient at the pointer: the way that steepest descent goes. */
function drawPointer(context: CanvasRenderingContext2D, { race, surface, palette, project }: Overlay): void {
  const answer: PointAnswer | undefined = race.here.answer
  if (!answer || !race.pointer || surface.dimensions < 2 || race.dragging) return
  const [x = 0, y = 0] = answer.point
  const [gx, gy] = [answer.direction?.[0] ?? 0, answer.direction?.[1] ?? 0]
  const from = project(x, y, answer.value ?? NaN)
  if (!from) return
  const size = 0.02 * Math.min(surface.x[1] - surface.x[0], surface.y[1] - surface.y[0])
  const near = project(x - gx * size, y - gy * size, sample(surface.grid, x - gx * size, y - gy * size))
  context.beginPath()
  context.arc(from[0], from[1], 3, 0, 2 * Math.PI)
  context.fillStyle = palette.ink
  context.fill()
  if (!near || answer.direction === null) return
  const [dx, dy] = [near[0] - from[0], near[1] - from[1]]
  const length = Math.hypot(dx, dy)
  if (length < 1e-6) return
  const long = ARROW / length
  drawArrow(context, from, [from[0] + dx * long, from[1] + dy * long], palette.dark ? '#0f131a' : '#ffffff', 5)
  drawArrow(context, from, [from[0] + dx * long, from[1] + dy * long], palette.ink, 2)
}

/** Numbers along the two nearest edges of the block. */
function drawSceneAxes(context: CanvasRenderingContext2D, { race, surface, palette, width }: Overlay, scene: Scene): void {
  const { solid } = scene
  const turn = (race.state.eye[0]! * Math.PI) / 180
  const nearY = Math.cos(turn) >= 0 ? -1 : 1
  const nearX = Math.sin(turn) >= 0 ? 1 : -1
  const few = width < 520 ? 3 : 5
  context.font = FONT
  context.textAlign = 'center'
  context.textBaseline = 'middle'
  context.fillStyle = palette.ink2
  const put = (text: string, x: number, y: number): void => {
    const at = scene.projectScene(x, y, -0.06)
    if (at) halo(context, text, at[0], at[1], palette)
  }
  for (const tick of roundTicks(surface.x[0], surface.x[1], few)) {
    const [sx] = toScene(solid, surface.x, surface.y, tick, surface.y[0])
    put(String(Number(tick.toPrecision(6))), sx, nearY * (solid.y + 0.09))
  }
  for (const tick of roundTicks(surface.y[0], surface.y[1], few)) {
    const [, sy] = toScene(solid, surface.x, surface.y, surface.x[0], tick)
    put(String(Number(tick.toPrecision(6))), nearX * (solid.x + 0.1), sy)
  }
  context.fillStyle = palette.ink
  context.font = `italic ${FONT.replace('11px', '14px')}`
  put(surface.variables[0]!, 0.12, nearY * (solid.y + 0.22))
  put(surface.variables[1]!, nearX * (solid.x + 0.24), 0.12)
}
