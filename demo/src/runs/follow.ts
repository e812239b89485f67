/** Reads the records of a run to its end: each once and in order, however often the connection is lost. */
import { pause } from '../api/client'
import { isAbort, Problem } from '../api/problem'
import type { RunLine } from './service'

/** Opens the records after a step. Calls `alive` whenever anything arrives. */
export type Open<R> = (after: number, signal: AbortSignal, alive: () => void) => AsyncIterable<RunLine<R>>

export interface Following {
  signal: AbortSignal
  /** Whether the connection is lost; it is opened again then. */
  onlost?: (lost: boolean) => void
}

/** The service shows each second that it is there. A connection that is silent for longer is given up (milliseconds). */
export const SILENCE = 12_000
/**
 * A page that nobody looks at for longer gives its connection back (milliseconds): browsers open few to one server, and
 * servers keep few streams.
 */
export const UNSEEN = 20_000
/** Seconds before the connection is opened again: at once at first, later less often. */
const PAUSES = [0.25, 0.5, 1, 2, 4, 8]

/**
 * Every line after `after`; the last one tells the end. Throws `Problem` if the service refuses for good, and ends
 * without a last line when the signal does.
 */
export async function* follow<R extends { step: number }>(
  open: Open<R>, after: number, { signal, onlost }: Following,
): AsyncGenerator<RunLine<R>> {
  let failures = 0
  let lost = false
  const tell = (now: boolean): void => {
    if (now !== lost) onlost?.((lost = now))
  }
  for (;;) {
    await seen(signal)
    if (signal.aborted) return
    const attempt = new AbortController()
    const end = (): void => attempt.abort()
    signal.addEventListener('abort', end, { once: true })
    const look = whenUnseen(end)
    let silent = setTimeout(end, SILENCE)
    const alive = (): void => {
      clearTimeout(silent)
      silent = setTimeout(end, SILENCE)
      tell(false)
      failures = 0
    }
    try {
      for await (const line of open(after, attempt.signal, alive)) {
        if (signal.aborted) return
        if (!('step' in line)) {
          yield line
          return
        }
        if (line.step <= after) continue // told before the connection was lost
        after = line.step
        yield line
      }
    } catch (error) {
      if (signal.aborted) return
      if (!passes(error)) throw error
    } finally {
      clearTimeout(silent)
      look()
      signal.removeEventListener('abort', end)
      attempt.abort()
    }
    // The answer ended before the run did: a server that stops does that too.
    if (failures > 0) tell(true)
    await rest(PAUSES[Math.min(failures, PAUSES.length - 1)]!, signal)
    failures += 1
  }
}

/** Wait until the page is looked at. */
export function seen(signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const look = (): void => {
      if (hidden() && !signal.aborted) return
      globalThis.document?.removeEventListener('visibilitychange', look)
      signal.removeEventListener('abort', look)
      done()
    }
    globalThis.document?.addEventListener('visibilitychange', look)
    signal.addEventListener('abort', look)
    look()
  })
}

/** Call `end` once nobody has looked at the page for a while. Gives what stops watching. */
function whenUnseen(end: () => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined
  const look = (): void => {
    clearTimeout(timer)
    if (hidden()) timer = setTimeout(end, UNSEEN)
  }
  globalThis.document?.addEventListener('visibilitychange', look)
  look()
  return () => {
    clearTimeout(timer)
    globalThis.document?.removeEventListener('visibilitychange', look)
  }
}

function hidden(): boolean {
  return globalThis.document?.visibilityState === 'hidden'
}

/** Whether an error may pass: no answer, or a service that is busy or starting. */
export function passes(error: unknown): boolean {
  if (isAbort(error)) return true
  if (!(error instanceof Problem)) return error instanceof SyntaxError // a line that was cut off
  return error.status === 0 || error.status === 408 || error.status === 429 || (error.status >= 500 && error.status !== 501)
}

/** Wait, but no longer than until the network is back or the page is looked at again. */
export async function rest(seconds: number, signal: AbortSignal): Promise<void> {
  const woken = new AbortController()
  const end = (): void => woken.abort()
  const wake = (): void => {
    if (!hidden()) end()
  }
  if (signal.aborted) return
  signal.addEventListener('abort', end, { once: true })
  globalThis.addEventListener?.('online', wake)
  globalThis.document?.addEventListener('visibilitychange', wake)
  try {
    await pause(seconds, woken.signal)
  } catch {
    // Woken, or no longer wanted: the caller looks.
  } finally {
    signal.removeEventListener('abort', end)
    globalThis.removeEventListener?.('online', wake)
    globalThis.document?.removeEventListener('visibilitychange', wake)
  }
}
