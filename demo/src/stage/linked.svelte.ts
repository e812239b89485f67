/** State that lives in the address: the same link shows the same numbers. */

import { read, split, write, type Checks, type State } from './links'

class Address {
  /** The lab that the address names. */
  lab = $state('')
  /** Parts of a link that could not be used. */
  faults = $state<string[]>([])
}
export const address = new Address()

/** What of a lab is shown: `?hide=controls,evidence,transport` lets a teacher leave parts out. */
export function parts(): { controls: boolean; evidence: boolean; transport: boolean } {
  const hidden = new Set((new URLSearchParams(location.search).get('hide') ?? '').split(','))
  return {
    controls: !hidden.has('controls'), evidence: !hidden.has('evidence'), transport: !hidden.has('transport'),
  }
}

const DEBOUNCE = 150
/** What each lab had in the address when it was last open. */
const remembered = $state<Record<string, string>>({})

/** The fragment that opens a lab as it was left. */
export function linkTo(lab: string): string {
  return `#${remembered[lab] ?? lab}`
}

/** Set when the address changes other than by `linked`; each linked state reads it then. */
let changes = $state(0)

/** Read the address now and whenever it changes; `known` are the names of the labs, the first one is the default. */
export function followAddress(known: readonly [string, ...string[]]): () => void {
  const follow = (): void => {
    const { lab } = split(location.hash)
    const named = lab === '' || known.includes(lab)
    if (!named) history.replaceState(null, '', `#${known[0]}`)
    address.lab = named ? lab : known[0]
    address.faults = named ? [] : [lab.slice(0, 40)]
    changes += 1
  }
  follow()
  addEventListener('hashchange', follow)
  return () => removeEventListener('hashchange', follow)
}

/**
 * A reactive object of JSON values. What differs from `defaults` stands in the fragment (`#race/…`): read at the start,
 * written a moment after each change. A part that is unknown, malformed or refused by `checks` keeps its default, and
 * the page says so. Call it while a component is made.
 */
export function linked<T extends State>(lab: string, defaults: T, checks: Checks<T> = {}): T {
  const load = (): T => {
    const { lab: named, parameters } = split(location.hash)
    const { state, faults } = read(named === lab ? parameters : '', defaults, checks)
    if (faults.length) address.faults = faults
    return state
  }
  const state = $state<T>(load())
  let seen = changes
  let timer: ReturnType<typeof setTimeout> | undefined

  $effect(() => {
    if (changes === seen) return
    seen = changes
    if (split(location.hash).lab === lab) Object.assign(state, load())
  })
  $effect(() => {
    const fragment = write(lab, $state.snapshot(state) as State, defaults)
    remembered[lab] = fragment
    clearTimeout(timer)
    timer = setTimeout(() => {
      const { lab: named } = split(location.hash)
      if ((named === lab || named === '') && location.hash !== `#${fragment}`) history.replaceState(null, '', `#${fragment}`)
    }, DEBOUNCE)
    return () => clearTimeout(timer)
  })
  return state
}
