/** Colours of heights, valleys and optimizers, as numbers that canvases and the graphics card take. */

export type RGB = readonly [number, number, number]

/** Viridis (van der Walt and Smith 2015), nine of its colours, evenly spaced. */
const VIRIDIS: readonly RGB[] = [
  [68, 1, 84],
  [71, 44, 122],
  [59, 81, 139],
  [44, 113, 142],
  [33, 144, 141],
  [39, 173, 129],
  [92, 200, 99],
  [170, 220, 50],
  [253, 231, 37],
]

export function mix(a: RGB, b: RGB, part: number): RGB {
  return [a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part, a[2] + (b[2] - a[2]) * part]
}

export function css(colour: RGB, alpha = 1): string {
  const [r, g, b] = colour.map(Math.round)
  return alpha === 1 ? `rgb(${r} ${g} ${b})` : `rgb(${r} ${g} ${b} / ${alpha})`
}

/** `#rrggbb`, `#rgb`, or `rgb(…)` as computed styles have it. */
export function parseColour(text: string): RGB {
  const trimmed = text.trim()
  const hex = /^#([0-9a-f]{6}|[0-9a-f]{3})$/i.exec(trimmed)?.[1]
  if (hex) {
    const full = hex.length === 3 ? [...hex].map((digit) => digit + digit).join('') : hex
    return [0, 2, 4].map((at) => parseInt(full.slice(at, at + 2), 16)) as unknown as RGB
  }
  const parts = trimmed.match(/-?\d+(\.\d+)?/g)?.map(Number) ?? []
  return [parts[0] ?? 0, parts[1] ?? 0, parts[2] ?? 0]
}

/** Viridis at a height from 0 to 1, muted so that trails stand out: towards white on a light page, black on a dark one. */
export function heightColour(height: number, dark: boolean): RGB {
  const place = Math.min(Math.max(height, 0), 1) * (VIRIDIS.length - 1)
  const below = Math.min(Math.floor(place), VIRIDIS.length - 2)
  const pure = mix(VIRIDIS[below]!, VIRIDIS[below + 1]!, place - below)
  const grey = 0.3 * pure[0] + 0.59 * pure[1] + 0.11 * pure[2]
  const muted = mix(pure, [grey, grey, grey], 0.2)
  return dark ? mix(muted, [13, 17, 24], 0.42) : mix(muted, [255, 255, 255], 0.4)
}

/** Colours of 256 heights. */
export function heightTable(dark: boolean): Uint8Array {
  const table = new Uint8Array(3 * 256)
  for (let index = 0; index < 256; index += 1) table.set(heightColour(index / 255, dark).map(Math.round), 3 * index)
  return table
}

/** Hues of valleys: those of Okabe and Ito 2008, told apart under every colour vision; they come again, with numbers beside. */
const VALLEYS: readonly RGB[] = [
  [0, 114, 178],
  [230, 159, 0],
  [0, 158, 115],
  [204, 121, 167],
  [86, 180, 233],
  [213, 94, 0],
  [240, 228, 66],
]

export function valleyColour(valley: number, dark: boolean): RGB {
  const pure = VALLEYS[valley % VALLEYS.length]!
  const again = Math.floor(valley / VALLEYS.length)
  const shifted = again === 0 ? pure : mix(pure, [128, 128, 128], Math.min(0.5, 0.22 * again))
  return dark ? mix(shifted, [13, 17, 24], 0.38) : mix(shifted, [255, 255, 255], 0.42)
}

/** Markers of optimizers, in the order of their colours, and dashes of their trails. */
export const MARKERS = ['circle', 'square', 'triangle', 'diamond', 'cross', 'plus'] as const
export type Marker = (typeof MARKERS)[number]
export const DASHES: readonly (readonly number[])[] = [[], [7, 3], [2, 3], [9, 3, 2, 3], [5, 5], [1, 2]]

export function markerOf(optimizer: number): Marker {
  return MARKERS[optimizer % MARKERS.length]!
}

/** Outline of a marker around a point, as a closed path; crosses are drawn as lines. */
export function traceMarker(
  context: CanvasRenderingContext2D | Path2D,
  marker: Marker,
  x: number,
  y: number,
  radius: number,
): void {
  const r = radius
  if (marker === 'circle') {
    context.moveTo(x + r, y)
    context.arc(x, y, r, 0, 2 * Math.PI)
    return
  }
  const at = corners(marker).map(([dx, dy]) => [x + r * dx, y + r * dy] as const)
  at.forEach(([px, py], index) => (index === 0 ? context.moveTo(px, py) : context.lineTo(px, py)))
  context.closePath()
}

/** Corners of a marker in units of its radius, y downward. */
export function corners(marker: Marker): readonly (readonly [number, number])[] {
  const w = 0.36
  const plus = [
    [-w, -1.1],
    [w, -1.1],
    [w, -w],
    [1.1, -w],
    [1.1, w],
    [w, w],
    [w, 1.1],
    [-w, 1.1],
    [-w, w],
    [-1.1, w],
    [-1.1, -w],
    [-w, -w],
  ] as const
  switch (marker) {
    case 'circle':
      return Array.from({ length: 24 }, (_, i) => [Math.cos((i * Math.PI) / 12), Math.sin((i * Math.PI) / 12)] as const)
    case 'square':
      return [
        [-0.9, -0.9],
        [0.9, -0.9],
        [0.9, 0.9],
        [-0.9, 0.9],
      ]
    case 'triangle':
      return [
        [0, -1.15],
        [1.05, 0.8],
        [-1.05, 0.8],
      ]
    case 'diamond':
      return [
        [0, -1.2],
        [1.05, 0],
        [0, 1.2],
        [-1.05, 0],
      ]
    case 'plus':
      return plus
    case 'cross':
      return plus.map(([x, y]) => [(x - y) * Math.SQRT1_2, (x + y) * Math.SQRT1_2] as const)
  }
}
