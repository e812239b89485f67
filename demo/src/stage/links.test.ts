import { describe, expect, it } from 'vitest'
import { alike, read, split, write, type State } from './links'

const DEFAULTS = {
  expression: 'x^2', rate: 0.1, on: true, starts: [[1, 2]], options: {} as State, shape: { units: 2, name: 'a' }, ball: null as number | null,
}

describe('links', () => {
  it('hold only what differs', () => {
    expect(write('race', structuredClone(DEFAULTS), DEFAULTS)).toBe('race')
    expect(write('race', { ...DEFAULTS, rate: 0.5 }, DEFAULTS)).toBe('race/rate=0.5')
  })

  it.each([
    { expression: '(1 - x)^2 + 100*(y - x^2)^2 & more = 50 % #1?' }, { expression: '' }, { expression: '梯度"\\' }, { expression: '12' },
    { rate: -1e-9 }, { on: false }, { starts: [] }, { starts: [[0.1, -2], [3, 4]] }, { options: { beta: 0.9, deep: [1, { a: null }] } },
    { shape: { units: 5, name: 'b' } }, { ball: 3 },
  ])('are read as they were written: %j', (change) => {
    const state = { ...structuredClone(DEFAULTS), ...change } as typeof DEFAULTS
    const { lab, parameters } = split(`#${write('race', state, DEFAULTS)}`)
    expect(lab).toBe('race')
    expect(read(parameters, DEFAULTS)).toEqual({ state, faults: [] })
  })

  it.each([
    'rate=fast', 'rate=', 'rate', 'rate="1"', 'rate=1e999', 'rate=null', 'on=1', 'starts=5', 'starts=[1]', 'starts=[["a"]]', 'options=[]',
    'shape={"units":"2","name":"a"}', 'shape={"units":2}', 'unknown=1', '__proto__=1', 'constructor=1', 'toString=1', '=', 'rate=%',
    'expression=%E0%A4%A',
  ])('keep their defaults where they say nothing of use: %s', (part) => {
    const { state, faults } = read(`${part}&on=false`, DEFAULTS)
    expect(state).toEqual({ ...DEFAULTS, on: false })
    expect(faults).toHaveLength(1)
  })

  it('are refused by checks, also by one that throws', () => {
    const checks = { rate: (rate: number) => rate > 0, starts: (starts: number[][]) => starts[0]![0]! < 5 }
    expect(read('rate=-1&starts=[]', DEFAULTS, checks).faults).toEqual(['rate=-1', 'starts=[]'])
    expect(read('rate=2&starts=[[1,1]]', DEFAULTS, checks).faults).toEqual([])
  })

  it('do not share the defaults', () => {
    const { state } = read('', DEFAULTS)
    state.starts.push([9, 9])
    expect(DEFAULTS.starts).toEqual([[1, 2]])
  })

  it('stay readable', () => {
    expect(write('race', { ...DEFAULTS, starts: [[1, 2], [3, 4]] }, DEFAULTS)).toBe('race/starts=[[1,2],[3,4]]')
  })

  it('name a lab with and without parameters', () => {
    expect(split('')).toEqual({ lab: '', parameters: '' })
    expect(split('#race')).toEqual({ lab: 'race', parameters: '' })
    expect(split('#race/a=b/c')).toEqual({ lab: 'race', parameters: 'a=b/c' })
  })
})

it('compares shapes', () => {
  expect(alike([1, 2], [])).toBe(true)
  expect(alike({ a: 1 }, [])).toBe(false)
  expect(alike(null, {})).toBe(false)
})
