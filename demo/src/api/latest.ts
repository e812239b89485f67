import { isAbort } from './problem'

/** A function of which only the newest call counts. */
export interface Latest<A extends unknown[], R> {
  (...values: A): Promise<R | undefined>
  /** End the running call, if there is one. */
  abort(): void
}

/**
 * `run` with an AbortSignal: a newer call aborts the older one, which then gives undefined. Whatever `run` throws
 * after it was aborted is no longer wanted either.
 */
export function latest<A extends unknown[], R>(
  run: (signal: AbortSignal, ...values: A) => Promise<R>,
): Latest<A, R> {
  let running: AbortController | undefined
  const call = async (...values: A): Promise<R | undefined> => {
    running?.abort()
    const mine = (running = new AbortController())
    try {
      const result = await run(mine.signal, ...values)
      return mine.signal.aborted ? undefined : result
    } catch (error) {
      if (mine.signal.aborted || isAbort(error)) return undefined
      throw error
    } finally {
      if (running === mine) running = undefined
    }
  }
  call.abort = (): void => running?.abort()
  return call
}
