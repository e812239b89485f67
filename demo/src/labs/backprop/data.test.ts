import { describe, expect, it } from 'vitest'
import { parseCsv, toCsv } from './csv'
import { kindOf, samplesOf, split, type DataChoice } from './datasets'

const choice = (data: DataChoice['data'], own = ''): DataChoice => ({ data, own, points: 60, noise: 0.05, dataSeed: 3 })

describe('points that are pasted', () => {
  it('reads commas, semicolons, tabs and blanks, a heading and comments', () => {
    const points = { inputs: [[1, 2], [-3, 4.5]], targets: [0, 1] }
    for (const mark of [',', ';', '\t', ' ', ' , ']) {
      const text = ['a b target'.replaceAll(' ', mark), ['1', '2', '0'].join(mark), '# a comment', '', ['-3', '4.5', '1'].join(mark)].join('\r\n')
      expect(parseCsv(text), mark).toEqual(points)
    }
    expect(parseCsv(toCsv(points))).toEqual(points)
  })

  it('tells the line and the cell of every mistake', () => {
    expect(parseCsv('1,2,0\n1,x,0\n1,2\n1,,3')).toEqual([
      { line: 2, reason: 'number', found: 'x' },
      { line: 3, reason: 'columns', found: '2' },
      { line: 4, reason: 'number', found: '' },
    ])
    expect(parseCsv('1,Infinity,0')).toEqual([{ line: 1, reason: 'number', found: 'Infinity' }])
  })

  it('refuses nothing at all and too many', () => {
    expect(parseCsv(' \n')).toMatchObject([{ reason: 'few' }])
    expect(parseCsv('1,2\n'.repeat(501))).toMatchObject([{ reason: 'many', found: '501' }])
  })
})

describe('data sets', () => {
  it('has the four patterns of XOR in the order of the worked example', () => {
    expect(samplesOf(choice('xor'))).toMatchObject({ inputs: [[1, 0], [0, 0], [0, 1], [1, 1]], targets: [1, 0, 1, 0] })
  })

  it.each(['circles', 'spiral', 'moons'] as const)('makes the same %s from the same seed, with three decimals', (name) => {
    const samples = samplesOf(choice(name))!
    expect(samplesOf(choice(name))).toEqual(samples)
    expect(samplesOf({ ...choice(name), dataSeed: 4 })).not.toEqual(samples)
    expect(samples.inputs).toHaveLength(60)
    expect(samples.targets.filter((target) => target === 1)).toHaveLength(30)
    for (const value of samples.inputs.flat()) {
      expect(value).toBe(Number(value.toFixed(3)))
      expect(Math.abs(value)).toBeLessThan(1.6)
    }
  })

  it('takes whole numbers for classes, and others for values', () => {
    expect(kindOf([0, 1, 2])).toBe('classes')
    expect(kindOf([0, 0])).toBe('values')
    expect(kindOf([0.5, 1])).toBe('values')
    expect(samplesOf(choice('own', 'not, a, number'))).toEqual(null)
  })

  it('keeps the same share of each class for validation', () => {
    const samples = samplesOf(choice('moons'))!
    const { training, validation } = split(samples, 0.25)
    expect([...training, ...validation].sort((a, b) => a - b)).toEqual(samples.inputs.map((_, i) => i))
    const ones = (rows: number[]): number => rows.filter((row) => samples.targets[row] === 1).length
    expect([ones(training), training.length, ones(validation), validation.length]).toEqual([23, 46, 7, 14])
    expect(split(samples, 0).validation).toEqual([])
  })
})
