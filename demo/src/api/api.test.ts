import { describe, expect, it } from 'vitest'
import { literal, program } from './copy'
import { latest } from './latest'
import { lines } from './lines'
import { asProblem, Problem } from './problem'
import type { Request } from './recorded.svelte'

async function* pieces(...texts: (string | Uint8Array)[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield typeof text === 'string' ? new TextEncoder().encode(text) : text
}

async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const one of source) found.push(one)
  return found
}

describe('lines', () => {
  it('come whole however they are cut', async () => {
    expect(await all(lines(pieces('{"a":', '1}\n{"b"', ':2}\n{}', '\n{"c":3}')))).toEqual(['{"a":1}', '{"b":2}', '{}', '{"c":3}'])
  })
  it('may be cut within a letter', async () => {
    const bytes = new TextEncoder().encode('梯度\n')
    expect(await all(lines(pieces(bytes.slice(0, 2), bytes.slice(2, 4), bytes.slice(4))))).toEqual(['梯度'])
  })
  it('are none where nothing comes', async () => {
    expect(await all(lines(pieces('', '\n')))).toEqual([])
  })
})

describe('latest', () => {
  it('gives the newest answer, and undefined for older ones', async () => {
    const signals: AbortSignal[] = []
    const call = latest(async (signal: AbortSignal, value: number) => {
      signals.push(signal)
      await new Promise((done) => setTimeout(done, value === 1 ? 20 : 1))
      return value
    })
    const [first, second] = await Promise.all([call(1), call(2)])
    expect([first, second]).toEqual([undefined, 2])
    expect(signals.map((signal) => signal.aborted)).toEqual([true, false])
  })
  it('forgets errors of what is no longer wanted, and no others', async () => {
    const call = latest(async (_: AbortSignal, value: number) => {
      await new Promise((done) => setTimeout(done, 1))
      if (value < 3) throw new Error(`number ${value}`)
      return value
    })
    const first = call(1)
    await expect(call(2)).rejects.toThrow('number 2')
    expect(await first).toBeUndefined()
    expect(await call(3)).toBe(3)
  })
  it('can be ended', async () => {
    const call = latest((signal: AbortSignal) => new Promise((done) => signal.addEventListener('abort', () => done('late'))))
    const running = call()
    call.abort()
    expect(await running).toBeUndefined()
  })
})

describe('a problem', () => {
  const problem = new Problem({
    type: '/problems/invalid', title: 'The request is not valid', status: 422, detail: '#/expression: what is q? (and 1 more)',
    errors: [{ pointer: '#/expression', detail: 'what is q?', allowed: ['x'] }, { pointer: '#/optimizers/0/beta', detail: 'is required' }],
  })
  it('is told by place, inner places included', () => {
    expect(problem.at('#/expression').map((fault) => fault.detail)).toEqual(['what is q?'])
    expect(problem.at('#/optimizers')).toHaveLength(1)
    expect(problem.at('#/opt')).toHaveLength(0)
    expect(problem.kind).toBe('invalid')
  })
  it('is made of any error', () => {
    expect(asProblem(problem)).toBe(problem)
    expect(asProblem(new TypeError('no')).title).toBe('no')
    expect(asProblem('no').title).toBe('no')
  })
  it('knows that places are fragments of addresses', () => {
    const told = new Problem({ errors: [{ pointer: '#/parameters/hidden%20layer', detail: 'unknown' }] })
    expect(told.at('#/parameters/hidden layer')).toHaveLength(1)
  })
})

describe('copied programs', () => {
  const request: Request = {
    method: 'POST', path: '/v1/functions/gradient', accept: 'application/json', language: 'en',
    body: { expression: "it's x^2", points: [[1, -2.5]], hessian: true, seed: null },
  }
  it('quote for the shell', () => {
    expect(program('curl', request, 'http://h:1')).toBe(
      `curl -s 'http://h:1/v1/functions/gradient' \\\n  -H 'Content-Type: application/json' \\\n` +
        `  -d '{"expression":"it'\\''s x^2","points":[[1,-2.5]],"hessian":true,"seed":null}'`,
    )
  })
  it('write Python', () => {
    const text = program('python', request, 'http://h:1')
    expect(text).toContain(`body = {"expression": "it's x^2", "points": [[1, -2.5]], "hessian": True, "seed": None}`)
    expect(text).toContain('requests.post("http://h:1/v1/functions/gradient", json=body)')
    expect(literal({ a: undefined, b: [false] })).toBe('{"b": [False]}')
  })
  it('ask for a stream, a language and a key where the page did', () => {
    const streamed = { ...request, accept: 'application/x-ndjson', language: 'zh' }
    expect(program('curl', streamed, '', true)).toMatch(/curl -sN .*x-ndjson.*Accept-Language: zh.*\$NABLA_KEY/s)
    expect(program('python', streamed, '', true)).toMatch(/import json\nimport os\nimport requests.*stream=True.*iter_lines/s)
    expect(program('javascript', streamed, '', true)).toContain('"Authorization": `Bearer ${key}`')
  })
  it('read without a body', () => {
    const reading: Request = { method: 'GET', path: '/v1/optimizers', body: undefined, accept: 'application/json', language: 'en' }
    expect(program('curl', reading, 'http://h')).toBe("curl -s 'http://h/v1/optimizers'")
    expect(program('javascript', reading, 'http://h')).toContain('await fetch("http://h/v1/optimizers");')
  })
  it('are programs', () => {
    const text = program('javascript', request, 'http://h').replaceAll('await ', '')
    expect(() => new Function(text)).not.toThrow()
  })
})
