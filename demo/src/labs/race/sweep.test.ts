import { describe, expect, it } from 'vitest'
import { batchesOf, choicesOf, placesOf, planOf, sweepable } from './sweep'

describe('a sweep', () => {
  const choice = { type: 'momentum', learning_rate: 0.01, momentum: 0.9 }
  const sweep = planOf(choice, 'momentum')

  it('lies around the present learning rate', () => {
    expect(sweep.rates).toHaveLength(20)
    expect(sweep.rates[0]).toBeCloseTo(0.01 / 31.6, 4)
    expect(sweep.rates.at(-1)).toBeCloseTo(0.316, 3)
    expect([sweep.others[0], sweep.others.at(-1)]).toEqual([0, 0.99])
  })

  it('asks for every pair once, a hundred at a time', () => {
    const choices = choicesOf(choice, sweep)
    expect(choices).toHaveLength(200)
    expect(new Set(choices.map((one) => `${one.learning_rate} ${one['momentum']}`)).size).toBe(200)
    expect(batchesOf(choices).map((batch) => batch.length)).toEqual([100, 100])
    expect(choicesOf(choice, planOf(choice, ''))).toHaveLength(20)
  })

  it('knows which options are shares', () => {
    const option = (name: string, more = {}) => ({ name, type: 'number', required: false, description: '', ...more })
    expect(
      sweepable([option('learning_rate'), option('momentum'), option('beta_1', { exclusive_maximum: 1 }), option('epsilon'), { ...option('nesterov'), type: 'boolean' }]),
    ).toEqual(['momentum', 'beta_1'])
  })

  it('has places for end values', () => {
    const places = placesOf([0, 1, 1e-3, 50, null], 1)
    expect(places[0]).toBe(0)
    expect(places[1]).toBe(1)
    expect(places[2]).toBeCloseTo(0.5)
    expect(places[3]).toBe(1)
    expect(places[4]).toBeNull()
    expect(placesOf([2, 2], 2)).toEqual([0, 0])
  })
})
