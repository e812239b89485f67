/** Requests about runs: computations in steps that the service stores, and goes on with after whatever happens. */
import { exchange, filledPath, read, type components, type Found, type GetPath, type Options, type PostPath } from '../api/client'
import { streamed } from '../api/stream'

type Schemas = components['schemas']
type Described = Schemas['Run']
/** How a run stands. Of one that was just started, only a part is known. */
export type RunEntry = Schemas['StartedRun'] & Pick<Described, 'step'> & Partial<Pick<Described, 'reason' | 'loss' | 'remaining_seconds'>>
/** What the service tells of the runs of all callers. */
export type Queue = NonNullable<Found<'/v1'>['queue']>

/** A line of the records: that of a step, or the last one, which tells the end. */
export type RunLine<R> = R | { status: string }

const RUNS = '/v1/runs' satisfies PostPath
const RUN = '/v1/runs/{id}' satisfies GetPath
const CANCEL = '/v1/runs/{id}/cancel' satisfies PostPath
const RESUME = '/v1/runs/{id}/resume' satisfies PostPath
const STEPS = '/v1/runs/{id}/steps' satisfies GetPath

/** Hand a training over. A second request with the same key finds the run of the first. */
export async function createRun(request: unknown, key: string, options: Options = {}): Promise<RunEntry> {
  const headers = { 'Idempotency-Key': key }
  const body: Schemas['RunRequest'] = { kind: 'train', request: request as Schemas['TrainRequest'] }
  const started = (await exchange('POST', RUNS, body, { ...options, headers })) as Schemas['StartedRun']
  return { step: 0, ...started }
}

export function readRun(id: string, options: Options = {}): Promise<RunEntry> {
  return read(RUN, { id }, options)
}

export async function cancelRun(id: string): Promise<RunEntry> {
  return (await exchange('POST', CANCEL, undefined, {}, { id })) as Described
}

/** Let a run go on to its end, or so many steps farther. */
export async function resumeRun(id: string, steps?: number): Promise<RunEntry> {
  const body: Schemas['ResumeRequest'] = steps === undefined ? {} : { steps }
  return (await exchange('POST', RESUME, body, {}, { id })) as Described
}

export async function removeRun(id: string): Promise<void> {
  await exchange('DELETE', RUN, undefined, {}, { id })
}

/** The records after a step, those of the past first, then each as it is made; the end of the run is the last line. */
export function recordsOf<R>(id: string, after: number, options: Options, alive?: () => void): AsyncGenerator<RunLine<R>> {
  return streamed(`${filledPath(STEPS, { id })}?after=${after}`, options, alive)
}

/** How many runs wait, and how many processes compute them; undefined where the service does not tell. */
export async function readQueue(options: Options = {}): Promise<Queue | undefined> {
  return (await read('/v1', {}, options)).queue ?? undefined
}

/** A name for one request that may have to be sent twice. `crypto.randomUUID` is missing where there is no https. */
export function newKey(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}
