/** Requests to the service, typed by its OpenAPI description. Each is recorded for the panel that it draws. */

import createClient from 'openapi-fetch'
import { spoken, t } from '../stage/language.svelte'
import { key } from './key.svelte'
import { isAbort, Problem, type ProblemDocument } from './problem'
import { recorded, type Method, type Recorded } from './recorded.svelte'
import type { paths } from './schema'

export { asProblem, isAbort, Problem } from './problem'
export type { components } from './schema'

type Answer<O> = O extends { responses: { 200: { content: infer C } } } ? C : never
type As<C, M extends string> = M extends keyof C ? C[M] : never

export type PostPath = { [P in keyof paths]: paths[P] extends { post: object } ? P : never }[keyof paths]
export type GetPath = { [P in keyof paths]: paths[P] extends { get: object } ? P : never }[keyof paths]
export type StreamPath = {
  [P in PostPath]: 'application/x-ndjson' extends keyof Answer<paths[P]['post']> ? P : never
}[PostPath]
export type BodyOf<P extends PostPath> = paths[P]['post'] extends {
  requestBody: { content: { 'application/json': infer B } }
}
  ? B
  : never
export type AnswerOf<P extends PostPath> = As<Answer<paths[P]['post']>, 'application/json'>
export type LineOf<P extends StreamPath> = As<Answer<paths[P]['post']>, 'application/x-ndjson'>
export type Found<P extends GetPath> = As<Answer<NonNullable<paths[P]['get']>>, 'application/json'>

export interface Options {
  /** Ends the request when it is no longer wanted. */
  signal?: AbortSignal
  /** The panel that the answer draws; CopyAs shows the request by this name. */
  panel?: string
  /** Headers besides those of every request. */
  headers?: Record<string, string>
}

/** Where the service is mounted: the folder above that of this script, without a slash at the end. */
export const ROOT = import.meta.env.DEV ? '' : new URL(/* @vite-ignore */ '..', import.meta.url).href.replace(/\/$/, '')

const client = createClient<paths>({ baseUrl: ROOT, fetch: (request) => globalThis.fetch(request) })
/** How often a busy service is asked, and the longest time in seconds that is waited in between. */
const ATTEMPTS = 3
const LONGEST_PAUSE = 5
const JSON_TYPE = 'application/json'

/** Ask for a whole answer. Throws `Problem`, or an AbortError when the signal ends the request. */
export async function ask<P extends PostPath>(path: P, body: BodyOf<P>, options: Options = {}): Promise<AnswerOf<P>> {
  return (await exchange('POST', path, body, options)) as AnswerOf<P>
}

/** Read a resource, such as a catalogue. */
export async function read<P extends GetPath>(
  path: P, names: Record<string, string> = {}, options: Options = {},
): Promise<Found<P>> {
  return (await exchange('GET', path, undefined, options, names)) as Found<P>
}

/** Send a request of any kind and read its answer; undefined where there is none. */
export async function exchange(
  method: Method, path: string, body: unknown, options: Options, names: Record<string, string> = {},
): Promise<unknown> {
  const entry = recorded.begin(options.panel, {
    method, path: filledPath(path, names), body, accept: JSON_TYPE, language: spoken.language,
  })
  const response = await send(entry, options)
  const text = await response.text()
  entry.bytes = new TextEncoder().encode(text).length
  return response.status === 204 ? undefined : parsed(text, response)
}

/** Send a recorded request; what comes back has a status of success and is not read yet. Throws `Problem` for any other. */
export async function send(entry: Recorded, { signal, headers }: Options): Promise<Response> {
  const started = performance.now()
  const call = client.request as unknown as (
    method: string, path: string, init: object,
  ) => Promise<{ response: Response; error?: unknown }>
  let found: { response: Response; error?: unknown }
  for (let attempt = 1; ; attempt += 1) {
    try {
      found = await call(entry.method, entry.path, {
        body: entry.body,
        headers: { Accept: entry.accept, 'Accept-Language': entry.language, ...key.header, ...headers },
        signal,
        parseAs: 'stream',
      })
    } catch (error) {
      if (isAbort(error)) throw error
      throw new Problem({ title: t('stage.fault.unreachable'), detail: t('stage.fault.unreachable_detail') })
    }
    const seconds = again(found.response)
    if (seconds === undefined || attempt === ATTEMPTS) break
    await pause(seconds, signal)
  }
  const { response, error } = found
  entry.status = response.status
  entry.milliseconds = performance.now() - started
  if (response.ok) return response
  throw typeof error === 'object' && error !== null
    ? new Problem(error as ProblemDocument, response.status)
    : new Problem({ detail: String(error).slice(0, 200) }, response.status)
}

/** In how many seconds a service that is busy, or was asked too often, wants to be asked again; undefined for not soon. */
function again(response: Response): number | undefined {
  if (response.status !== 429 && response.status !== 503) return undefined
  const seconds = Number(response.headers.get('Retry-After') ?? 1)
  return seconds <= LONGEST_PAUSE ? seconds : undefined
}

/** Let so many seconds pass; throws an AbortError when the signal comes first. */
export function pause(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((done, fail) => {
    const end = (): void => fail(new DOMException('aborted', 'AbortError'))
    if (signal?.aborted) return end()
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', end)
      done()
    }, seconds * 1000)
    signal?.addEventListener('abort', () => { clearTimeout(timer); end() }, { once: true })
  })
}

function parsed(text: string, response: Response): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new Problem({ title: t('stage.fault.unreadable'), detail: text.slice(0, 200) }, response.status)
  }
}

export function filledPath(path: string, names: Record<string, string>): string {
  return path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(names[name] ?? ''))
}
