/** What the service says when a request cannot be answered (RFC 9457), as an error. */

export interface Fault {
  /** JSON pointer to the offending part of the body, such as #/expression. */
  pointer: string
  detail: string
  /** What would have been accepted. */
  allowed?: unknown[]
}

export interface ProblemDocument {
  type?: string
  title?: string
  status?: number
  detail?: string
  errors?: Fault[]
}

export class Problem extends Error {
  readonly status: number
  readonly title: string
  readonly detail: string
  /** The name of the kind, such as `invalid`. */
  readonly kind: string
  readonly errors: Fault[]

  constructor(document: ProblemDocument, status = 0) {
    super(document.detail ?? document.title ?? `HTTP ${status}`)
    this.name = 'Problem'
    this.status = document.status ?? status
    this.title = document.title ?? `HTTP ${status}`
    this.detail = document.detail ?? ''
    this.kind = document.type?.split('/').pop() ?? ''
    this.errors = (document.errors ?? []).map((error) => ({ ...error, pointer: normal(error.pointer) }))
  }

  /** The same about a part of the body, as if that were the whole. */
  within(pointer: string): Problem {
    const place = normal(pointer)
    const errors = this.at(pointer).map((error) => ({ ...error, pointer: `#${error.pointer.slice(place.length)}` }))
    return new Problem({ type: this.kind, title: this.title, status: this.status, detail: this.detail, errors })
  }

  /** What is said about a part of the body: at the pointer or inside it. */
  at(pointer: string): Fault[] {
    const place = normal(pointer)
    return this.errors.filter((error) => error.pointer === place || error.pointer.startsWith(`${place}/`))
  }
}

/** Pointers are URI fragments: one way of writing each. */
function normal(pointer: string): string {
  try {
    return decodeURI(pointer)
  } catch {
    return pointer
  }
}

/** Whether an error only says that a request is no longer wanted. */
export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === 'AbortError'
}

/** Any error as a problem that can be shown. */
export function asProblem(error: unknown): Problem {
  if (error instanceof Problem) return error
  return new Problem({ title: error instanceof Error ? error.message : String(error) })
}
