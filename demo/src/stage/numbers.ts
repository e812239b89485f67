/** How the page writes numbers: four significant digits, a real minus sign, names for what is not finite. */

const DIGITS = 4
const MINUS = '−'

/** A number in four significant digits; scientific where it is very large or small. `null` is how JSON says NaN. */
export function format(x: number | null | undefined, digits = DIGITS): string {
  if (x === null || x === undefined || Number.isNaN(x)) return 'NaN'
  if (x === Infinity) return '∞'
  if (x === -Infinity) return `${MINUS}∞`
  if (x === 0) return '0'
  const size = Math.abs(x)
  const rounded = Number(size.toPrecision(digits))
  const text =
    rounded >= 1e6 || rounded < 1e-4 ? scientific(rounded) : rounded.toPrecision(Math.max(digits, whole(rounded)))
  return (x < 0 ? MINUS : '') + text
}

function whole(size: number): number {
  return Math.floor(Math.log10(size)) + 1
}

function scientific(size: number): string {
  const [mantissa = '', exponent = ''] = size.toExponential(DIGITS - 1).split('e')
  return `${mantissa}e${exponent.replace('+', '').replace('-', MINUS)}`
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
