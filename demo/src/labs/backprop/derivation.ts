/** A derivation of `/v1/gradients/explain`, and the links between its formulas and the picture. */

export interface Step {
  id: string
  kind: 'forward' | 'error' | 'delta' | 'gradient' | 'update'
  quantity: string
  layer: string | null
  unit: number[]
  sample: number | null
  symbol: string
  latex: string
  numbers: string
  text: string
  value: number
  uses: string[]
}

export type Quantity = Omit<Step, 'kind' | 'latex' | 'numbers' | 'text' | 'uses'>

export interface Meaning {
  parameter: string
  value: number
  gradient: number
  updated: number
  advice: string
  reasons: { code: string; text: string; layer: string | null; samples: number[] }[]
  text: string
  step: string
}

export interface Explanation {
  convention: string
  sample: number | null
  loss: number
  meanings: Meaning[]
  steps: Step[]
  quantities: Quantity[]
}

/** The gradient first, then what leads to it: forward, the error, and back. The service's own order is kept within a kind. */
export const KINDS = ['gradient', 'forward', 'error', 'delta', 'update'] as const

/**
 * The formula with each quantity that it uses, and its result, wrapped in `\htmlData{id=…}{symbol}`: KaTeX makes elements of
 * them that the pointer finds. Symbols that contain others come first, and what is wrapped is not looked into again.
 */
export function linkSymbols(latex: string, symbols: Map<string, string>): string {
  const bySymbol = new Map<string, string>()
  for (const [id, symbol] of symbols) if (!bySymbol.has(symbol) && symbol !== '') bySymbol.set(symbol, id)
  const ordered = [...bySymbol.keys()].sort((a, b) => b.length - a.length)
  let linked = ''
  for (let at = 0; at < latex.length; ) {
    const found = ordered.find((symbol) => latex.startsWith(symbol, at) && stands(latex, at, symbol))
    if (found === undefined) {
      linked += latex[at]
      at += 1
    } else {
      linked += `\\htmlData{id=${bySymbol.get(found)}}{${found}}`
      at += found.length
    }
  }
  return linked
}

/** Whether a symbol stands for itself there: not within a command such as `\ell`, and not with a further index. */
function stands(latex: string, at: number, symbol: string): boolean {
  const before = latex[at - 1] ?? ''
  const after = latex[at + symbol.length] ?? ''
  const letter = /[A-Za-z]/
  if (letter.test(symbol[0] as string) && (letter.test(before) || before === '\\' || insideCommand(latex, at))) return false
  const last = symbol[symbol.length - 1] as string
  return !(letter.test(last) && letter.test(after)) && after !== '_' && after !== '^' && after !== "'"
}

function insideCommand(latex: string, at: number): boolean {
  return /\\[A-Za-z]*$/.test(latex.slice(0, at)) && /[A-Za-z]/.test(latex[at - 1] ?? '')
}

/** The symbols of a step: its own and those of what it uses. */
export function symbolsOf(step: Step, explanation: Explanation): Map<string, string> {
  const known = new Map<string, string>()
  for (const each of [...explanation.quantities, ...explanation.steps]) known.set(each.id, each.symbol)
  const symbols = new Map<string, string>([[step.id, step.symbol]])
  for (const id of step.uses) {
    const symbol = known.get(id)
    if (symbol !== undefined) symbols.set(id, symbol)
  }
  return symbols
}

export type Place = { kind: 'weight'; address: string } | { kind: 'neuron'; layer: string; unit: number } | { kind: 'loss' }

/** Where in the picture a quantity of the derivation stands, by its id. */
export function placeOf(id: string): Place | null {
  if (/^(loss(\[\d+\])?|mean_squared_error|penalty)$/.test(id)) return { kind: 'loss' }
  const found = /^([a-z_]+):(.+)$/.exec(id)
  if (!found) return null
  const [, quantity, rest] = found as unknown as [string, string, string]
  if (quantity === 'parameter' || quantity === 'gradient' || quantity === 'update') {
    return { kind: 'weight', address: rest.replace(/@\d+$/, '') }
  }
  const unit = /^([^[]+)\[\d+\]\[(\d+)\]$/.exec(rest)
  return unit ? { kind: 'neuron', layer: unit[1] as string, unit: Number(unit[2]) } : null
}

export function samePlace(a: Place | null, b: Place | null): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}
