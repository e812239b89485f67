import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Problem } from '../api/problem'
import { follow, SILENCE, UNSEEN, type Open } from './follow'
import { Kept, mostRecords, recordEvery } from './kept'
import { Run, type Taker } from './run.svelte'
import type { RunEntry, RunLine } from './service'
import { percentOf, wordOf } from './words'

vi.hoisted(() => {
  const Plain = globalThis.Request
  globalThis.Request = class extends Plain {
    constructor(address: string | URL | Request, init?: RequestInit) {
      super(typeof address === 'string' ? new URL(address, 'http://service/') : address, init)
    }
  }
})

type Line = { step: number }
const END = { status: 'completed' }
const lines = (from: number, to: number): Line[] => Array.from({ length: to - from + 1 }, (_, i) => ({ step: from + i }))

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
})

/** What each connection in turn sends: lines, errors, or silence for ever. */
type Part = RunLine<Line>[] | Error | 'silence'
function source(...connections: Part[][]): { open: Open<Line>; asked: number[] } {
  const asked: number[] = []
  const open: Open<Line> = async function* (after, signal, alive) {
    asked.push(after)
    for (const part of connections.shift() ?? [new Problem({}, 404)]) {
      if (part instanceof Error) throw part
      if (part === 'silence') {
        await new Promise((_, fail) => signal.addEventListener('abort', () => fail(new DOMException('aborted', 'AbortError'))))
        continue
      }
      alive()
      yield* part
    }
  }
  return { open, asked }
}

async function all(open: Open<Line>, after = 0, onlost?: (lost: boolean) => void): Promise<RunLine<Line>[]> {
  const seen: RunLine<Line>[] = []
  const reading = (async () => {
    for await (const line of follow(open, after, { signal: new AbortController().signal, onlost })) seen.push(line)
  })()
  reading.catch(() => undefined)
  await vi.advanceTimersByTimeAsync(300_000)
  await reading
  return seen
}

describe('the records of a run', () => {
  it('come once each and in order, however the connection ends', async () => {
    const { open, asked } = source(
      [lines(1, 5), new Problem({}, 0)], // cut off
      [lines(4, 7)], // ended without an end, and some lines again
      [new Problem({}, 503)], // busy
      [new SyntaxError('half a line')],
      [[{ step: 8 }], 'silence'], // a connection that died without a word
      [lines(9, 12), [END], lines(13, 14)],
    )
    expect(await all(open)).toEqual([...lines(1, 12), END])
    expect(asked).toEqual([0, 5, 7, 7, 7, 8])
  })

  it('begin after the step that is known', async () => {
    const { open, asked } = source([lines(41, 43), [END]])
    expect(await all(open, 40)).toEqual([...lines(41, 43), END])
    expect(asked).toEqual([40])
  })

  it('end with what the service refuses for good', async () => {
    for (const status of [401, 403, 404, 422, 501]) {
      const { open } = source([[{ step: 1 }], new Problem({}, status)])
      await expect(all(open)).rejects.toMatchObject({ status })
    }
  })

  it('tell that the connection is lost only if it does not come back at once', async () => {
    const told: boolean[] = []
    const once = source([lines(1, 2)], [lines(3, 3), [END]])
    await all(once.open, 0, (lost) => told.push(lost))
    expect(told).toEqual([])
    const longer = source([lines(1, 2)], ...Array.from({ length: 5 }, () => [new Problem({}, 0)]), [lines(3, 3), [END]])
    await all(longer.open, 0, (lost) => told.push(lost))
    expect(told).toEqual([true, false])
  })

  it('are asked for less and less often while nothing answers, and at once when the network is back', async () => {
    const { open, asked } = source(...Array.from({ length: 100 }, () => [new Problem({}, 0)]))
    const world = new EventTarget()
    vi.stubGlobal('addEventListener', world.addEventListener.bind(world))
    vi.stubGlobal('removeEventListener', world.removeEventListener.bind(world))
    const leaving = new AbortController()
    const reading = (async () => {
      for await (const _ of follow(open, 0, { signal: leaving.signal })) expect.unreachable()
    })()
    await vi.advanceTimersByTimeAsync(60_000)
    expect(asked.length).toBeGreaterThan(8)
    expect(asked.length).toBeLessThan(16)
    const before = asked.length
    world.dispatchEvent(new Event('online'))
    await vi.advanceTimersByTimeAsync(1)
    expect(asked).toHaveLength(before + 1)
    leaving.abort()
    await vi.advanceTimersByTimeAsync(1)
    await reading
    await vi.advanceTimersByTimeAsync(60_000)
    expect(asked).toHaveLength(before + 1)
  })

  it('are not asked for while nobody looks', async () => {
    const page = Object.assign(new EventTarget(), { visibilityState: 'visible' })
    const turn = (state: string): void => {
      page.visibilityState = state
      page.dispatchEvent(new Event('visibilitychange'))
    }
    vi.stubGlobal('document', page)
    turn('hidden')
    const asked: number[] = []
    const beats: Open<Line> = async function* (after, signal, alive) {
      asked.push(after)
      while (!signal.aborted) {
        alive()
        await new Promise((done) => setTimeout(done, 1000))
      }
    }
    const leaving = new AbortController()
    const idle = (async () => {
      for await (const _ of follow(beats, 7, { signal: leaving.signal })) expect.unreachable()
    })()
    await vi.advanceTimersByTimeAsync(2 * UNSEEN)
    expect(asked).toEqual([])
    turn('visible')
    await vi.advanceTimersByTimeAsync(2 * UNSEEN)
    expect(asked).toEqual([7])
    turn('hidden')
    await vi.advanceTimersByTimeAsync(2 * UNSEEN)
    turn('visible')
    await vi.advanceTimersByTimeAsync(2 * UNSEEN)
    expect(asked).toEqual([7, 7])
    leaving.abort()
    await vi.advanceTimersByTimeAsync(2000)
    await idle
    expect(vi.getTimerCount()).toBe(0)
  })

  it('leave no timer behind', async () => {
    const { open } = source([lines(1, 2), [END]])
    await all(open)
    expect(vi.getTimerCount()).toBe(0)
    expect(SILENCE).toBeGreaterThan(5000) // the service shows itself each second
  })
})

describe('records that are kept', () => {
  it('are all of them while they are few', () => {
    const kept = new Kept<Line>(10)
    for (const line of [...lines(1, 10), ...lines(3, 5)]) kept.add(line)
    expect(kept.list()).toEqual(lines(1, 10))
  })

  it('stay within their bound, evenly spread, with the first and the newest', () => {
    for (const most of [1, 2, 7, 100]) {
      const kept = new Kept<Line>(most)
      for (let step = 1; step <= 5000; step += 1) {
        kept.add({ step })
        if (step > 40 && step % 37 !== 0) continue
        const steps = kept.list().map((line) => line.step)
        expect(steps.length).toBeLessThanOrEqual(most + 1)
        expect([steps[0], steps.at(-1)]).toEqual([1, step])
        const gaps = steps.slice(1, -1).map((each, i) => each - steps[i]!)
        expect(new Set(gaps).size).toBeLessThanOrEqual(1)
        expect(steps.length).toBeGreaterThan(Math.min(step - 1, most / 2))
      }
    }
  })

  it('are fewer if each has many numbers', () => {
    expect(mostRecords(45)).toBe(2000)
    expect(mostRecords(5000)).toBe(200)
    expect(mostRecords(1e9)).toBe(100)
    expect([recordEvery(500, 2000), recordEvery(60_000, 2000), recordEvery(60_001, 2000)]).toEqual([1, 30, 31])
  })
})

const ENTRY: RunEntry = { id: 'a1', kind: 'train', status: 'running', step: 3, of: 10 }

it('tells how a run stands', () => {
  expect(wordOf({ ...ENTRY, status: 'queued', step: 0 })).toBe('waiting')
  expect(wordOf({ ...ENTRY, status: 'queued' })).toBe('paused')
  expect([wordOf(ENTRY), wordOf(ENTRY, true)]).toEqual(['computing', 'stopping'])
  expect(percentOf({ ...ENTRY, step: 9999, of: 10_000 })).toBe(99)
})

describe('a run', () => {
  let asked: { method: string; path: string; key: string | null }[] = []
  /** The service: what it answers for the method and path of a request; undefined for no answer. */
  let service: (request: Request, path: string) => Response | undefined
  const json = (value: unknown, status = 200): Response => new Response(JSON.stringify(value), { status })
  const streamOf = (...parts: object[]): Response => new Response(parts.map((part) => `${JSON.stringify(part)}\n`).join(''))
  const wait = (seconds: number): Promise<unknown> => vi.advanceTimersByTimeAsync(1000 * seconds)
  let taken: RunLine<Line>[] = []
  let over = 0
  const taker: Taker<Line> = {
    begin: () => (taken.filter((line): line is Line => 'step' in line).at(-1)?.step ?? 0),
    take: (line) => void taken.push(line),
    done: () => void (over += 1),
  }

  beforeEach(() => {
    asked = []
    taken = []
    over = 0
    vi.stubGlobal('fetch', async (request: Request) => {
      request.signal.throwIfAborted()
      const { pathname, search } = new URL(request.url)
      asked.push({ method: request.method, path: pathname + search, key: request.headers.get('Idempotency-Key') })
      const answer = service(request, pathname + search)
      if (!answer) throw new TypeError('no network')
      return answer
    })
  })

  it('is handed over once, also if the first answer is lost', async () => {
    service = (request) => (request.method === 'POST' ? (asked.length < 3 ? undefined : json(ENTRY, 202)) : streamOf())
    const run = new Run<Line>(taker, 'test.steps')
    const started = run.start({ steps: 10 }, 'test.run')
    await wait(10)
    expect(await started).toBe(true)
    const keys = asked.filter((each) => each.method === 'POST').map((each) => each.key)
    expect(keys).toHaveLength(3)
    expect(new Set(keys).size).toBe(1)
    expect(keys[0]).toMatch(/^[\da-f]{32}$/)
    expect(run.id).toBe('a1')
    run.leave()
    await wait(1)
    expect(vi.getTimerCount()).toBe(0)
  })

  it('is followed to its end and goes on from there', async () => {
    let entry: RunEntry = ENTRY
    service = (_, path) => {
      if (path.endsWith('/resume')) return json((entry = { ...ENTRY, status: 'queued', step: 5, of: 8 }), 202)
      if (path.endsWith('after=0')) {
        entry = { ...ENTRY, status: 'completed', step: 5, of: 5 }
        return streamOf(...lines(1, 5), END)
      }
      if (path.endsWith('after=5')) {
        entry = { ...ENTRY, status: 'completed', step: 8, of: 8 }
        return streamOf(...lines(6, 8), END)
      }
      return json(entry)
    }
    const run = new Run<Line>(taker, 'test.steps')
    run.attach('a1')
    await wait(3)
    expect([taken, over, run.ended, run.entry?.step]).toEqual([[...lines(1, 5), END], 1, true, 5])
    void run.resume(3)
    await wait(3)
    expect([taken, over, run.ended, run.entry?.of]).toEqual([[...lines(1, 5), END, ...lines(6, 8), END], 2, true, 8])
    expect(vi.getTimerCount()).toBe(0)
  })

  it('says that it is gone, or that none are kept', async () => {
    service = () => json({ title: 'Not found', status: 404 }, 404)
    const run = new Run<Line>(taker, 'test.steps')
    run.attach('b2')
    await wait(2)
    expect([run.problem?.status, run.entry, over]).toEqual([404, undefined, 1])
    service = () => json({ title: 'No database', status: 501 }, 501)
    void run.start({}, 'test.run')
    await wait(2)
    expect([run.problem?.status, run.id, run.busy]).toEqual([501, '', false])
    expect(vi.getTimerCount()).toBe(0)
  })

  it('tells why it waits once it has waited for a while', async () => {
    service = (_, path) =>
      path.includes('/steps') ? new Response(new ReadableStream()) : json(path === '/v1' ? { queue: { queued: 1, running: 0, runners: 0 } } : { ...ENTRY, status: 'queued', step: 0 })
    const run = new Run<Line>(taker, 'test.steps')
    run.attach('a1')
    await wait(2)
    expect([run.late, run.queue]).toEqual([false, undefined])
    await wait(8)
    expect([run.late, run.queue?.runners]).toEqual([true, 0])
    run.leave()
  })
})
