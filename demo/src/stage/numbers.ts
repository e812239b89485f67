/** How the page writes numbers: four significant digits, a real minus sign, names for what is not finite. */

const DIGITS = 4
const MINUS = '−'
/** Powers of ten from which on, and below which, numbers are scientific. */
const LARGE = 6
const SMALL = -4

/** A number in four significant digits; scientific where it is very large or small. `null` is how JSON says NaN. */
export function format(x: number | null | undefined, digits = DIGITS): string {
  if (x === null || x === undefined || Number.isNaN(x)) return 'NaN'
  if (x === Infinity) return '∞'
  if (x === -Infinity) return `${MINUS}∞`
  if (x === 0) return '0'
  const size = Math.abs(x)
  const [mantissa = '', exponent = ''] = size.toExponential(digits - 1).split('e')
  const power = Number(exponent) // of the rounded number
  const text =
    power >= LARGE || power < SMALL
      ? `${mantissa}e${exponent.replace('+', '').replace('-', MINUS)}`
      : size.toFixed(Math.max(0, digits - 1 - power))
  return (x < 0 ? MINUS : '') + text
}

/** Every digit that a number has, as JSON and Python read it. */
export function full(x: number | null | undefined): string {
  return x === null || x === undefined ? 'NaN' : String(x)
}

/** A number with its sign always shown, and the class name of the sign: colour is never alone. */
export function signed(x: number | null | undefined): { text: string; name: 'positive' | 'negative' | 'zero' } {
  const text = format(x)
  if (x === null || x === undefined || Number.isNaN(x) || x === 0) return { text, name: 'zero' }
  return x > 0 ? { text: `+${text}`, name: 'positive' } : { text, name: 'negative' }
}

/** A size of memory or of an answer. */
export function bytes(size: number): string {
  if (size < 1000) return `${size} B`
  return size < 1e6 ? `${(size / 1e3).toPrecision(3)} kB` : `${(size / 1e6).toPrecision(3)} MB`
}
