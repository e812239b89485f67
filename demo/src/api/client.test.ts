import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { ask, isAbort, Problem, read } from './client'
import { recorded } from './recorded.svelte'
import { stream } from './stream'

// Addresses of the page need one that they are relative to.
vi.hoisted(() => {
  const Plain = globalThis.Request
  globalThis.Request = class extends Plain {
    constructor(address: string | URL | Request, init?: RequestInit) {
      super(typeof address === 'string' ? new URL(address, 'http://service/') : address, init)
    }
  }
})

let answers: Response[] = []
const asked: Request[] = []
beforeEach(() => {
  asked.length = 0
  vi.useFakeTimers()
  vi.stubGlobal('fetch', async (request: Request) => {
    request.signal.throwIfAborted()
    asked.push(request)
    const answer = answers.shift()
    if (!answer) throw new TypeError('no network')
    return answer
  })
})
afterEach(() => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
})

const json = (value: unknown, status = 200, headers: Record<string, string> = {}): Response =>
  new Response(JSON.stringify(value), { status, headers })
const BODY = { expression: 'x^2', points: [[3]] }

it('sends a body, reads the answer and records both by panel', async () => {
  answers = [json({ points: [] })]
  expect(await ask('/v1/functions/gradient', BODY, { panel: 'test.gradient' })).toEqual({ points: [] })
  expect(asked[0]!.method).toBe('POST')
  expect(await asked[0]!.json()).toEqual(BODY)
  expect(asked[0]!.headers.get('Accept-Language')).toBe('en')
  const entry = recorded.of('test.gradient')!
  expect([entry.path, entry.status, entry.bytes]).toEqual(['/v1/functions/gradient', 200, 13])
})

it('fills names into paths', async () => {
  answers = [json({})]
  await read('/v1/optimizers/{name}', { name: 'a b' })
  expect(new URL(asked[0]!.url).pathname).toBe('/v1/optimizers/a%20b')
})

it('throws what the service says', async () => {
  answers = [json({ title: 'Not valid', status: 422, errors: [{ pointer: '#/expression', detail: 'what is q?' }] }, 422)]
  const problem = await ask('/v1/functions/gradient', BODY).catch((error: unknown) => error)
  expect(problem).toBeInstanceOf(Problem)
  expect((problem as Problem).at('#/expression')[0]!.detail).toBe('what is q?')
})

it('says what is no problem document too', async () => {
  answers = [new Response('<html>bad gateway', { status: 502 })]
  await expect(ask('/v1/functions/gradient', BODY)).rejects.toMatchObject({ status: 502 })
  answers = []
  await expect(ask('/v1/functions/gradient', BODY)).rejects.toBeInstanceOf(Problem)
})

it('asks a busy service again when it says so, and not for ever', async () => {
  answers = [json({}, 503, { 'Retry-After': '1' }), json({ points: [1] })]
  const answer = ask('/v1/functions/gradient', BODY)
  await vi.advanceTimersByTimeAsync(1000)
  expect(await answer).toEqual({ points: [1] })
  answers = Array.from({ length: 9 }, () => json({ title: 'busy' }, 429))
  const refused = expect(ask('/v1/functions/gradient', BODY)).rejects.toMatchObject({ status: 429 })
  await vi.advanceTimersByTimeAsync(20_000)
  await refused
  expect(answers).toHaveLength(6)
  answers = [json({ title: 'busy' }, 503, { 'Retry-After': '60' })]
  await expect(ask('/v1/functions/gradient', BODY)).rejects.toMatchObject({ status: 503 })
})

it('waits no longer for what is no longer wanted', async () => {
  answers = [json({}, 503, { 'Retry-After': '2' })]
  const controller = new AbortController()
  const answer = ask('/v1/functions/gradient', BODY, { signal: controller.signal }).catch((error: unknown) => error)
  await vi.advanceTimersByTimeAsync(100)
  controller.abort()
  expect(isAbort(await answer)).toBe(true)
})

it('streams line by line, without signs of life, and throws a problem in the middle', async () => {
  answers = [new Response('{"step":0}\n{}\n{"step":1}\n{"problem":{"title":"Stopped","status":503}}\n')]
  const seen: unknown[] = []
  const all = async (): Promise<void> => {
    for await (const line of stream('/v1/train', {} as never, { panel: 'test.train' })) seen.push(line)
  }
  await expect(all()).rejects.toMatchObject({ title: 'Stopped', status: 503 })
  expect(seen).toEqual([{ step: 0 }, { step: 1 }])
  expect(asked[0]!.headers.get('Accept')).toBe('application/x-ndjson')
  expect(recorded.of('test.train')!.bytes).toBe(70)
})
