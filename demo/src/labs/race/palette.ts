/** The colours of the present theme as the drawing code of this lab needs them. */

import { colour } from '../../stage/theme.svelte'
import { heightTable, parseColour, type RGB } from './colours'
import { MOST_OPTIMIZERS } from './state'

export interface Palette {
  dark: boolean
  ink: string
  ink2: string
  line: string
  background: string
  panel: string
  accent: string
  negative: string
  positive: string
  optimizers: string[]
  optimizersRGB: RGB[]
  table: Uint8Array
}

/** Reactive: reads the theme. */
export function paletteOf(dark: boolean): Palette {
  const optimizers = Array.from({ length: MOST_OPTIMIZERS }, (_, index) =>
    colour(`--optimizer-${index + 1}` as `--${string}`),
  )
  return {
    dark,
    ink: colour('--ink'),
    ink2: colour('--ink-2'),
    line: colour('--line'),
    background: colour('--bg'),
    panel: colour('--panel'),
    accent: colour('--accent'),
    negative: colour('--negative'),
    positive: colour('--positive'),
    optimizers,
    optimizersRGB: optimizers.map(parseColour),
    table: heightTable(dark),
  }
}
