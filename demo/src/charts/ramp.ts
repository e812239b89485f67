/** Colours for numbers: heights in muted viridis, signed numbers between amber and blue. */

export type Rgb = readonly [number, number, number]
/** From 0 to 1. */
export type Ramp = (t: number) => Rgb

const VIRIDIS = ['#440154', '#482878', '#3e4a89', '#31688e', '#26828e', '#1f9e89', '#35b779', '#6ece58', '#b5de2b', '#fde725']

export function rgb(hex: string): Rgb {
  const text = hex.trim().replace('#', '')
  const long = text.length === 3 ? [...text].map((digit) => digit + digit).join('') : text
  return [0, 2, 4].map((start) => parseInt(long.slice(start, start + 2), 16)) as unknown as Rgb
}

export function mixed(a: Rgb, b: Rgb, share: number): Rgb {
  return [0, 1, 2].map((channel) => Math.round(a[channel]! + (b[channel]! - a[channel]!) * share)) as unknown as Rgb
}

/** Between colours at equal distances. */
export function between(stops: readonly Rgb[]): Ramp {
  return (t) => {
    const place = Math.min(1, Math.max(0, t)) * (stops.length - 1)
    const below = Math.min(stops.length - 2, Math.floor(place))
    return mixed(stops[below]!, stops[below + 1]!, place - below)
  }
}

/** Heights: low is dark, high is light, drawn back towards the panel so that what lies on it stands out. */
export function heights(panel: string, muted = 0.45): Ramp {
  const ground = rgb(panel)
  return between(VIRIDIS.map((hex) => mixed(rgb(hex), ground, muted)))
}

/** Signed numbers, -1 to 1 as 0 to 1: `colour` reads the custom properties of the theme. */
export function diverging(colour: (name: `--${string}`) => string): Ramp {
  return between([1, 2, 3, 4, 5, 6, 7].map((number) => rgb(colour(`--diverging-${number}`))))
}

/** A signed number on a symmetric logarithmic scale: where 0 is 0, `most` is 1, and `linear` is where lines bend. */
export function symlog(x: number, most: number, linear = most / 1000): number {
  if (most <= 0 || !Number.isFinite(most)) return 0
  return (Math.sign(x) * Math.log1p(Math.abs(x) / linear)) / Math.log1p(most / linear)
}

export function css([red, green, blue]: Rgb): string {
  return `rgb(${red} ${green} ${blue})`
}
