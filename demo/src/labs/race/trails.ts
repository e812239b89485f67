/** Trails of the 2-D picture. Those of many balls are added to as time goes on, so a frame draws only what is new. */

import { DASHES } from './colours'
import type { Palette } from './palette'
import type { Paths } from './paths'
import { entryAt, placeAt, type Place } from './paths'
import type { Project } from './marks'

/** Runs of which whole trails are drawn anew in each frame. */
export const FEW = 24

export function drawTrails(
  context: CanvasRenderingContext2D,
  paths: Paths,
  time: number,
  project: Project,
  palette: Palette,
): void {
  context.lineJoin = context.lineCap = 'round'
  const place: Place = { x: 0, y: 0, value: 0 }
  for (let run = 0; run < paths.runs; run += 1) {
    const optimizer = paths.optimizer[run]!
    const last = Math.min(entryAt(paths, Math.min(time, paths.ends[run]!)), paths.width - 1)
    context.beginPath()
    let drawing = false
    for (let entry = 0; entry <= last + 1; entry += 1) {
      if (entry <= last) at(paths, run, entry, place)
      else placeAt(paths, run, time, place)
      const pixel = project(place.x, place.y, place.value)
      if (!pixel) {
        drawing = false
        continue
      }
      if (drawing) context.lineTo(pixel[0], pixel[1])
      else context.moveTo(pixel[0], pixel[1])
      drawing = true
    }
    context.setLineDash([])
    context.lineWidth = 4.5
    context.strokeStyle = palette.dark ? 'rgb(15 19 26 / 0.45)' : 'rgb(255 255 255 / 0.55)'
    context.stroke()
    context.setLineDash(DASHES[optimizer % DASHES.length] as number[])
    context.lineWidth = 2.2
    context.strokeStyle = palette.optimizers[optimizer % palette.optimizers.length]!
    context.stroke()
  }
  context.setLineDash([])
  if (paths.runs <= 8) drawSteps(context, paths, time, project, palette)
}

/** A dot at each place told, where they lie far enough apart to be seen. */
function drawSteps(
  context: CanvasRenderingContext2D,
  paths: Paths,
  time: number,
  project: Project,
  palette: Palette,
): void {
  const place: Place = { x: 0, y: 0, value: 0 }
  for (let run = 0; run < paths.runs; run += 1) {
    const last = entryAt(paths, Math.min(time, paths.ends[run]!))
    context.fillStyle = palette.optimizers[paths.optimizer[run]! % palette.optimizers.length]!
    let before: [number, number] | null = null
    for (let entry = 0; entry <= last; entry += 1) {
      const pixel = project(...spread(at(paths, run, entry, place)))
      if (pixel && (!before || Math.hypot(pixel[0] - before[0], pixel[1] - before[1]) > 6)) {
        context.beginPath()
        context.arc(pixel[0], pixel[1], 2.4, 0, 2 * Math.PI)
        context.fill()
        before = pixel
      }
    }
  }
}

function spread(place: Place): [number, number, number] {
  return [place.x, place.y, place.value]
}

function at(paths: Paths, run: number, entry: number, into: Place): Place {
  const from = 4 * (run * paths.width + entry)
  into.x = paths.data[from]!
  into.y = paths.data[from + 1]!
  into.value = paths.data[from + 2]!
  return into
}

/** Adds to the still ground what many balls have gone since the last frame; begins anew where something else changed. */
export class TrailLayer {
  #paths: Paths | null = null
  #still: HTMLCanvasElement | null = null
  #time = 0
  #drawn = ''

  draw(context: CanvasRenderingContext2D, paths: Paths | null, time: number, project: Project, palette: Palette, still: HTMLCanvasElement): void {
    const size = `${context.canvas.width} ${context.canvas.height}`
    if (paths !== this.#paths || still !== this.#still || time < this.#time || size !== this.#drawn) {
      context.save()
      context.setTransform(1, 0, 0, 1, 0, 0)
      context.clearRect(0, 0, context.canvas.width, context.canvas.height)
      context.drawImage(still, 0, 0)
      context.restore()
      this.#paths = paths
      this.#still = still
      this.#time = 0
      this.#drawn = size
    }
    if (!paths || time <= this.#time) return
    context.lineWidth = 1
    context.globalAlpha = paths.runs > 400 ? 0.3 : 0.5
    const place: Place = { x: 0, y: 0, value: 0 }
    const first = entryAt(paths, this.#time)
    const last = entryAt(paths, time)
    for (let optimizer = 0; optimizer < palette.optimizers.length; optimizer += 1) {
      context.beginPath()
      for (let run = 0; run < paths.runs; run += 1) {
        if (paths.optimizer[run] !== optimizer || paths.ends[run]! <= this.#time) continue
        let before = project(...spread(placeAt(paths, run, this.#time, place)))
        for (let entry = first + 1; entry <= last + 1; entry += 1) {
          const now = entry <= last ? at(paths, run, entry, place) : placeAt(paths, run, time, place)
          const pixel = project(now.x, now.y, now.value)
          if (before && pixel) {
            context.moveTo(before[0], before[1])
            context.lineTo(pixel[0], pixel[1])
          }
          before = pixel
        }
      }
      context.strokeStyle = palette.optimizers[optimizer]!
      context.stroke()
    }
    context.globalAlpha = 1
    this.#time = time
  }
}
