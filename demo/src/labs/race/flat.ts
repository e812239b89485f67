/** The still part of the 2-D picture: surface, contour lines, axes; or the curve of a function of one variable. */

import { css, valleyColour } from './colours'
import { frameOf, roundTicks, toPixel, type Frame, type Margins } from './geometry'
import type { Palette } from './palette'
import type { Surface } from './race.svelte'
import { paintTerrain, type BasinGrid } from './terrain'

export const FONT = '11px system-ui, "PingFang SC", "Noto Sans CJK SC", sans-serif'
/** Pictures narrower than this have their legend above. */
export const NARROW = 620
/** Pixels of the picture of a surface along its longer side, at most. */
const SHARPEST = 720

export function marginsFor(width: number): Margins {
  // Legend and scale stand beside the map where there is room, else above it.
  return width < NARROW ? { left: 36, right: 12, top: 62, bottom: 28 } : { left: 48, right: 150, top: 18, bottom: 34 }
}

/** Where the picture of a surface lies. That of a curve has values along y. */
export function frameFor(surface: Surface, width: number, height: number): Frame {
  const margins = marginsFor(width)
  if (surface.dimensions > 1) return frameOf(width, height, surface.x, surface.y, margins)
  const { lowest, highest } = surface.heights
  const room = (highest - lowest || 1) * 0.08
  const frame = frameOf(width, height, surface.x, [lowest - room, highest + room], margins)
  return {
    ...frame,
    left: margins.left,
    top: margins.top,
    width: width - margins.left - margins.right,
    height: height - margins.top - margins.bottom,
    equal: false,
  }
}

/** A picture of the surface without axes: the ground of the 2-D picture and the skin of the 3-D one. */
export function surfaceImage(
  surface: Surface,
  palette: Palette,
  basins: BasinGrid | null,
  aspect: number,
  lines = true,
): HTMLCanvasElement {
  const canvas = document.createElement('canvas')
  canvas.width = Math.round(aspect >= 1 ? SHARPEST : SHARPEST * aspect)
  canvas.height = Math.round(aspect >= 1 ? SHARPEST / aspect : SHARPEST)
  const context = canvas.getContext('2d')!
  const image = context.createImageData(canvas.width, canvas.height)
  paintTerrain(image.data, canvas.width, canvas.height, surface.relief, {
    table: palette.table,
    dark: palette.dark,
    shade: basins ? 1.2 : 0.9,
    ...(basins ? { basins: { grid: basins, colour: (valley: number) => valleyColour(valley, palette.dark) } } : {}),
  })
  context.putImageData(image, 0, 0)
  if (lines) {
    const frame: Frame = {
      left: 0,
      top: 0,
      width: canvas.width,
      height: canvas.height,
      x: surface.x,
      y: surface.y,
      equal: true,
    }
    drawContours(context, surface, frame, palette, 1.1)
  }
  return canvas
}

function drawContours(
  context: CanvasRenderingContext2D,
  surface: Surface,
  frame: Frame,
  palette: Palette,
  width: number,
): void {
  context.lineWidth = width
  context.strokeStyle = palette.dark ? 'rgb(238 242 248 / 0.2)' : 'rgb(20 24 31 / 0.22)'
  context.beginPath()
  for (const contour of surface.contours) {
    for (const line of contour.lines) {
      for (let at = 0; at < line.length; at += 2) {
        const [px, py] = toPixel(frame, line[at]!, line[at + 1]!)
        if (at === 0) context.moveTo(px, py)
        else context.lineTo(px, py)
      }
    }
  }
  context.stroke()
}

/** Ground, contour lines and axes. */
export function drawGround(
  context: CanvasRenderingContext2D,
  surface: Surface,
  frame: Frame,
  palette: Palette,
  basins: BasinGrid | null,
  number: (value: number) => string,
): void {
  if (surface.dimensions === 1) {
    drawCurve(context, surface, frame, palette, basins)
  } else {
    context.imageSmoothingEnabled = true
    context.drawImage(
      surfaceImage(surface, palette, basins, frame.width / frame.height, false),
      frame.left,
      frame.top,
      frame.width,
      frame.height,
    )
    drawContours(context, surface, frame, palette, 0.8)
  }
  context.strokeStyle = palette.line
  context.lineWidth = 1
  context.strokeRect(frame.left - 0.5, frame.top - 0.5, frame.width + 1, frame.height + 1)
  drawAxes(context, surface, frame, palette, number)
}

function drawAxes(
  context: CanvasRenderingContext2D,
  surface: Surface,
  frame: Frame,
  palette: Palette,
  number: (value: number) => string,
): void {
  context.font = FONT
  context.fillStyle = palette.ink2
  context.strokeStyle = palette.ink2
  context.textBaseline = 'top'
  context.textAlign = 'center'
  context.beginPath()
  for (const tick of roundTicks(frame.x[0], frame.x[1], Math.max(2, frame.width / 80))) {
    const [px] = toPixel(frame, tick, frame.y[0])
    context.moveTo(px, frame.top + frame.height)
    context.lineTo(px, frame.top + frame.height + 4)
    context.fillText(number(tick), px, frame.top + frame.height + 7)
  }
  context.textAlign = 'right'
  context.textBaseline = 'middle'
  for (const tick of roundTicks(frame.y[0], frame.y[1], Math.max(2, frame.height / 60))) {
    const [, py] = toPixel(frame, frame.x[0], tick)
    context.moveTo(frame.left, py)
    context.lineTo(frame.left - 4, py)
    context.fillText(number(tick), frame.left - 7, py)
  }
  context.stroke()
  context.fillStyle = palette.ink
  context.font = `italic ${FONT.replace('11px', '13px')}`
  context.textAlign = 'right'
  context.textBaseline = 'bottom'
  halo(context, surface.variables[0]!, frame.left + frame.width - 6, frame.top + frame.height - 4, palette)
  context.textAlign = 'left'
  context.textBaseline = 'top'
  halo(
    context,
    surface.dimensions === 1 ? `f(${surface.variables[0]!})` : surface.variables[1]!,
    frame.left + 6,
    frame.top + 4,
    palette,
  )
}

/** Text that stands out from whatever is behind it. */
export function halo(context: CanvasRenderingContext2D, text: string, x: number, y: number, palette: Palette): void {
  context.save()
  context.lineJoin = 'round'
  context.lineWidth = 3
  context.strokeStyle = palette.dark ? 'rgb(15 19 26 / 0.75)' : 'rgb(255 255 255 / 0.8)'
  context.strokeText(text, x, y)
  context.restore()
  context.fillText(text, x, y)
}

function drawCurve(
  context: CanvasRenderingContext2D,
  surface: Surface,
  frame: Frame,
  palette: Palette,
  basins: BasinGrid | null,
): void {
  context.fillStyle = palette.panel
  context.fillRect(frame.left, frame.top, frame.width, frame.height)
  if (basins) {
    const cell = frame.width / basins.columns
    for (let i = 0; i < basins.columns; i += 1) {
      const valley = basins.valleys[i]!
      context.fillStyle = valley < 0 ? palette.line : css(valleyColour(valley, palette.dark), 0.6)
      context.fillRect(frame.left + i * cell, frame.top, cell + 0.5, frame.height)
    }
  }
  const { grid } = surface
  context.save()
  context.beginPath()
  context.rect(frame.left, frame.top, frame.width, frame.height)
  context.clip()
  context.beginPath()
  let drawing = false
  for (let i = 0; i < grid.columns; i += 1) {
    const value = grid.values[i]!
    if (!Number.isFinite(value)) {
      drawing = false
      continue
    }
    const x = grid.x[0] + (i / (grid.columns - 1)) * (grid.x[1] - grid.x[0])
    const [px, py] = toPixel(frame, x, value)
    if (drawing) context.lineTo(px, py)
    else context.moveTo(px, py)
    drawing = true
  }
  context.strokeStyle = palette.ink2
  context.lineWidth = 1.8
  context.stroke()
  context.restore()
}
