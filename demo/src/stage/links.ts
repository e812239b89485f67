/** The state of a lab as text in the address, and back. */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }
export type State = { [key: string]: Json }
/** Says whether a value of a link may be used. */
export type Checks<T> = { [K in keyof T]?: (value: T[K]) => boolean }

/** `race/x=1&f=x%5E2`: the name of a lab and what differs from its defaults. */
export function write(lab: string, state: State, defaults: State): string {
  const parts = Object.keys(defaults)
    .filter((key) => JSON.stringify(state[key]) !== JSON.stringify(defaults[key]))
    .map((key) => `${key}=${encoded(state[key]!, defaults[key]!)}`)
  return parts.length ? `${lab}/${parts.join('&')}` : lab
}

/** What a link says, over the defaults; `faults` names the parts that say nothing of use. */
export function read<T extends State>(
  parameters: string, defaults: T, checks: Checks<T> = {},
): { state: T; faults: string[] } {
  const state = structuredClone(defaults)
  const faults: string[] = []
  for (const part of parameters.split('&').filter(Boolean)) {
    const [key = '', ...rest] = part.split('=')
    const value = Object.hasOwn(defaults, key) ? decoded(rest.join('='), defaults[key]!) : undefined
    const check = checks[key as keyof T] as ((value: Json) => boolean) | undefined
    if (value === undefined || (check && !allowed(check, value))) faults.push(shortened(part))
    else (state as State)[key] = value
  }
  return { state, faults }
}

/** The name of the lab and its parameters in the fragment of an address. */
export function split(fragment: string): { lab: string; parameters: string } {
  const text = fragment.replace(/^#/, '')
  const slash = text.indexOf('/')
  return slash < 0 ? { lab: text, parameters: '' } : { lab: text.slice(0, slash), parameters: text.slice(slash + 1) }
}

/** Strings stand as they are, everything else as JSON. */
function encoded(value: Json, pattern: Json): string {
  const text = typeof pattern === 'string' && typeof value === 'string' ? value : JSON.stringify(value)
  // What may stand in a fragment stays readable.
  return encodeURIComponent(text).replace(/%(2C|5B|5D|3A|2F|40|24|3B|7B|7D)/gi, (code) =>
    decodeURIComponent(code),
  )
}

function decoded(text: string, pattern: Json): Json | undefined {
  try {
    const plain = decodeURIComponent(text)
    const value: Json = typeof pattern === 'string' ? plain : (JSON.parse(plain) as Json)
    return alike(value, pattern) ? value : undefined
  } catch {
    return undefined
  }
}

function allowed(check: (value: Json) => boolean, value: Json): boolean {
  try {
    return check(value)
  } catch {
    return false
  }
}

/** Whether a value has the shape of a default: its type, and that of its first element or of its members. */
export function alike(value: Json, pattern: Json): boolean {
  if (pattern === null) return true
  if (Array.isArray(pattern)) {
    const first = pattern[0]
    return Array.isArray(value) && (first === undefined || value.every((element) => alike(element, first)))
  }
  if (typeof pattern === 'object') {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
    const known = Object.keys(pattern)
    // An empty default is a free form: a table of options.
    return known.length === 0 || known.every((key) => key in value && alike(value[key]!, pattern[key]!))
  }
  return typeof value === typeof pattern && (typeof value !== 'number' || Number.isFinite(value))
}

function shortened(part: string): string {
  let plain = part
  try {
    plain = decodeURIComponent(part)
  } catch {
    // Shown as it came.
  }
  return plain.length > 40 ? `${plain.slice(0, 40)}…` : plain
}
