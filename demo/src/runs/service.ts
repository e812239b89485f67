/** Requests about runs: computations in steps that the service stores, and goes on with after whatever happens. */
import { exchange, type Options } from '../api/client'
import { streamed } from '../api/stream'

export type RunStatus = 'queued' | 'running' | 'completed' | 'stopped' | 'diverged' | 'cancelled' | 'failed'

/** A run as the service tells of it. */
export interface RunEntry {
  id: string
  kind: string
  status: RunStatus
  /** Why it ended, in words. */
  reason?: string | null
  step: number
  of: number
  loss?: number | null
  /** Steps a second, and the seconds that the rest will take; unknown while nothing is computed. */
  rate?: number | null
  remaining_seconds?: number | null
}

/** What `/v1` tells of the queue. */
export interface Queue {
  queued: number
  running: number
  runners: number
}

/** A line of the records: that of a step, or the last one, which tells the end. */
export type RunLine<R> = R | { status: string }

const RUNS = '/v1/runs'

/** Hand a training over. A second request with the same key finds the run of the first. */
export async function createRun(request: unknown, key: string, options: Options = {}): Promise<RunEntry> {
  const headers = { 'Idempotency-Key': key }
  const started = (await exchange('POST', RUNS, { kind: 'train', request }, { ...options, headers })) as Omit<RunEntry, 'step'>
  return { step: 0, ...started }
}

export async function readRun(id: string, options: Options = {}): Promise<RunEntry> {
  return (await exchange('GET', `${RUNS}/{id}`, undefined, options, { id })) as RunEntry
}

export async function cancelRun(id: string): Promise<RunEntry> {
  return (await exchange('POST', `${RUNS}/{id}/cancel`, undefined, {}, { id })) as RunEntry
}

/** Let a run go on to its end, or so many steps farther. */
export async function resumeRun(id: string, steps?: number): Promise<RunEntry> {
  return (await exchange('POST', `${RUNS}/{id}/resume`, steps === undefined ? {} : { steps }, {}, { id })) as RunEntry
}

export async function removeRun(id: string): Promise<void> {
  await exchange('DELETE', `${RUNS}/{id}`, undefined, {}, { id })
}

/** The records after a step, those of the past first, then each as it is made; the end of the run is the last line. */
export function recordsOf<R>(id: string, after: number, options: Options, alive?: () => void): AsyncGenerator<RunLine<R>> {
  return streamed(`${RUNS}/${encodeURIComponent(id)}/steps?after=${after}`, options, alive)
}

/** How many runs wait, and how many processes compute them; undefined where the service does not tell. */
export async function readQueue(options: Options = {}): Promise<Queue | undefined> {
  const found = (await exchange('GET', '/v1', undefined, options)) as { runs?: Queue | null }
  return found.runs ?? undefined
}

export const ENDED: readonly RunStatus[] = ['completed', 'stopped', 'diverged', 'cancelled', 'failed']

export function hasEnded(entry: RunEntry): boolean {
  return ENDED.includes(entry.status)
}

/** A name for one request that may have to be sent twice. `crypto.randomUUID` is missing where there is no https. */
export function newKey(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}
