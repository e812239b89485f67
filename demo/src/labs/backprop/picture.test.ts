import { describe, expect, it } from 'vitest'
import { classOf, confusion, mix, planeOf, rangeOf, shares } from './boundary'
import { shownSlope } from './convention'
import { Follower } from './follower'
import { firstNumbers, planOf, type GraphNode } from './graph'
import { neuronBoxes, short } from './labels'
import { layoutOf, placeLabels, strokeWidth } from './layout'
import { deltaKnown, lastPhase, lossKnown, outputKnown, phaseAt, pulseAt } from './pulses'
import { extentOf, linear, logarithmic, pathOf, thinned } from './scale'

describe('layout', () => {
  it.each([[[2, 2, 1], 840, 420], [[2, 2, 1], 360, 400], [[2, 8, 6, 1], 840, 430], [[2, 12, 12, 3], 300, 400], [[1, 1], 300, 200]] as const)(
    'keeps neurons %j apart and within %i pixels', (sizes, width, height) => {
      const layout = layoutOf([...sizes], sizes.slice(1).map((_, i) => `l${i}`), width, height)
      expect(layout.edges).toHaveLength(sizes.slice(1).reduce((sum, size, i) => sum + size * sizes[i]!, 0))
      expect(layout.edges[0]!.address).toBe('l0.kernel[0][0]')
      for (const a of layout.neurons) {
        expect(a.x - a.radius).toBeGreaterThanOrEqual(0)
        expect(a.x + a.radius).toBeLessThanOrEqual(width)
        expect(a.y + a.radius).toBeLessThanOrEqual(layout.height)
        for (const b of layout.neurons) if (a !== b) expect(Math.hypot(a.x - b.x, a.y - b.y)).toBeGreaterThan(a.radius * 1.9)
      }
      expect(layout.vertical).toBe(width < 560)
    })

  it('gives every weight of the XOR network a place for its numbers, on a desk and on a phone', () => {
    for (const [width, height] of [[840, 420], [366, 380]] as const) {
      const layout = layoutOf([2, 2, 1], ['hidden', 'output'], width, height)
      const size = { width: 66, height: 30 }
      const addresses = layout.edges.map((edge) => edge.address)
      for (const chosen of addresses) {
        expect(placeLabels(layout, [chosen, ...addresses.filter((each) => each !== chosen)], size, neuronBoxes(layout, 'full')).size).toBeGreaterThanOrEqual(width > 800 ? 6 : 5)
      }
      const all = [...placeLabels(layout, addresses, size, neuronBoxes(layout, 'full')).values()]
      for (const a of all) for (const b of all) if (a !== b) expect(Math.abs(a.x - b.x) >= 66 || Math.abs(a.y - b.y) >= 30).toBe(true)
    }
  })

  it('shows no numbers on a layer where most would lie on each other', () => {
    const layout = layoutOf([2, 12, 12, 1], ['a', 'b', 'c'], 840, 430)
    const places = placeLabels(layout, layout.edges.map((edge) => edge.address), { width: 66, height: 30 })
    expect([...places.keys()].filter((address) => address.startsWith('b'))).toEqual([])
  })

  it('draws larger weights wider, and what is no number thin', () => {
    expect([strokeWidth(-2, 2), strokeWidth(0, 2), strokeWidth(NaN, 2), strokeWidth(1, 0)]).toEqual([7, 1, 1, 1])
  })

  it('writes whole inputs as they were given', () => {
    expect([short(1), short(-3), short(0.5)]).toEqual(['1', '−3', '0.5000'])
  })
})

describe('phases of a pass', () => {
  it('sends the pulse forward, then back along the same edges', () => {
    const middles = Array.from({ length: lastPhase(2) }, (_, i) => pulseAt(i + 0.25, 2))
    expect(middles.map((pulse) => [pulse!.direction, pulse!.layer])).toEqual([
      ['forward', 1], ['forward', 2], ['forward', 3], ['backward', 3], ['backward', 2], ['backward', 1],
    ])
    expect(pulseAt(0.25, 2)!.share).toBe(0.25)
    expect(pulseAt(4.25, 2)!.share).toBe(0.75)
    for (let step = 0; step <= lastPhase(2); step += 1) expect(pulseAt(step, 2)).toBeNull()
  })

  it('shows a number once the pulse has brought it', () => {
    const known = (at: number) => [outputKnown(at, 1), outputKnown(at, 2), lossKnown(at, 2), deltaKnown(at, 2, 2), deltaKnown(at, 1, 2)]
    expect([0, 1, 2, 3, 4, 5].map((at) => known(at).filter(Boolean).length)).toEqual([0, 1, 2, 3, 4, 5])
  })

  it('names what happens', () => {
    expect([0, 0.5, 2, 3, 3.5, 5, 6].map((at) => phaseAt(at, 2).name)).toEqual(['input', 'forward', 'forward', 'loss', 'backward', 'backward', 'update'])
    expect([3.5, 5].map((at) => phaseAt(at, 2).layer)).toEqual([2, 1])
  })
})

it('turns the sign of a slope, and nothing else', () => {
  expect([shownSlope(0.1, 'standard'), shownSlope(0.1, 'heaton'), shownSlope(-0.3, 'heaton')]).toEqual([0.1, -0.1, 0.3])
  expect(Object.is(shownSlope(0, 'heaton'), 0)).toBe(true)
})

describe('decision boundary', () => {
  it('asks for a grid over the data, the upper left first', () => {
    const plane = planeOf([[0, 0], [1, 2]], 3)
    expect(plane.x).toEqual({ low: -0.25, high: 1.25 })
    expect(plane.inputs).toHaveLength(9)
    expect([plane.inputs[0], plane.inputs[2], plane.inputs[8]]).toEqual([[-0.25, 2.5], [1.25, 2.5], [1.25, -0.5]])
    expect(planeOf([[0], [1]], 4)).toMatchObject({ rows: 1, columns: 12, y: null })
    expect(planeOf([[0, 0, 5], [1, 1, 7]], 2, [0, 0, 6]).inputs[0]).toEqual([-0.25, 1.25, 6])
    expect(rangeOf([[2], [2]], 0)).toEqual({ low: 1.75, high: 2.25 })
  })

  it('colours by the side of the middle', () => {
    expect(shares([0, 0.5, 1], 0, 1)).toEqual([-1, 0, 1])
    expect(mix(-1, [1, 1, 1], [5, 5, 5], [9, 9, 9])).toEqual([1, 1, 1])
    expect(mix(0.5, [1, 1, 1], [5, 5, 5], [9, 9, 9])).toEqual([7, 7, 7])
    expect(mix(NaN, [1, 1, 1], [5, 5, 5], [9, 9, 9])).toEqual([5, 5, 5])
  })

  it('counts what is said of which class', () => {
    expect([classOf([0.7], 0.5), classOf([0.2], 0.5), classOf([0.1, 0.7, 0.2], 0.5)]).toEqual([1, 0, 1])
    expect(confusion([[0.7], [0.6], [0.1], [0.9]], [1, 0, 0, 1], 0.5, 2)).toEqual([[1, 1], [0, 2]])
  })
})

describe('scales', () => {
  it('go there and back', () => {
    const scale = linear(2, 6, 0, 100)
    expect([scale.at(4), scale.back(50)]).toEqual([50, 4])
    const log = logarithmic(0.01, 100, 0, 100)
    expect([log.at(1), log.ticks]).toEqual([50, [0.01, 1, 100]])
    expect(logarithmic(0.3, 0.7, 0, 100).ticks.length).toBeGreaterThan(1)
    expect([extentOf([3, NaN, null, -1]), extentOf([])]).toEqual([[-1, 3], [0, 1]])
  })

  it('breaks a path where a value is missing, and loses no peak when thinned', () => {
    expect(pathOf([[0, 0], [1, 1], [2, NaN], [3, 3]])).toBe('M0.0 0.0L1.0 1.0M3.0 3.0')
    const points = Array.from({ length: 5000 }, (_, i): [number, number] => [i, i === 1234 ? 99 : 0])
    const kept = thinned(points, 200)
    expect(kept.length).toBeLessThanOrEqual(200)
    expect(kept).toContainEqual([1234, 99])
  })
})

describe('computational graph', () => {
  const node = (name: string, inputs: string[], phase: GraphNode['phase'] = 'forward'): GraphNode => ({ name, operation: 'add', inputs, shape: [], phase })

  it('has forward nodes from left to right above, backward nodes from right to left below', () => {
    const plan = planOf([
      node('x', []), node('w', []), node('m', ['x', 'w']), node('b', []), node('s', ['m', 'b']),
      node('g', ['s'], 'backward'), node('h', ['g', 'x'], 'backward'),
    ])
    const at = new Map(plan.placed.map((placed) => [placed.node.name, placed]))
    expect(['x', 'w', 'm', 'b', 's'].map((name) => at.get(name)!.column)).toEqual([0, 0, 1, 1, 2])
    expect(at.get('g')!.column).toBeGreaterThan(at.get('h')!.column)
    expect(at.get('g')!.row).toBe(plan.divide)
    expect(new Set(plan.placed.map((placed) => `${placed.column} ${placed.row}`)).size).toBe(7)
  })

  it('writes the first numbers of a tensor', () => {
    expect(firstNumbers([[1, 2], [3, 4]], 2)).toEqual({ numbers: [1, 2], more: true })
    expect(firstNumbers(5, 2)).toEqual({ numbers: [5], more: false })
  })
})

describe('who follows what moves', () => {
  it('lets a running request end while something moves, then asks for the newest only', async () => {
    const asked: number[] = []
    const told: number[] = []
    const ends: (() => void)[] = []
    const follower = new Follower<number, number>(
      (question) => {
        asked.push(question)
        return new Promise((done) => ends.push(() => done(question)))
      },
      (answer) => told.push(answer),
      () => undefined,
    )
    for (const question of [1, 2, 3]) follower.want(question, true)
    ends[0]!()
    await new Promise((done) => setTimeout(done, 20))
    ends[1]!()
    await new Promise((done) => setTimeout(done, 5))
    expect([asked, told]).toEqual([[1, 3], [1, 3]])
  })

  it('aborts what is no longer wanted at rest', async () => {
    const signals: AbortSignal[] = []
    const follower = new Follower<number, number>(
      (question, signal) => {
        signals.push(signal)
        return Promise.resolve(question)
      },
      (answer) => expect(answer).toBe(2),
      () => undefined,
    )
    follower.want(1)
    follower.want(2)
    await new Promise((done) => setTimeout(done, 5))
    expect(signals.map((signal) => signal.aborted)).toEqual([true, false])
  })
})
