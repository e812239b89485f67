import { describe, expect, it } from 'vitest'
import { linkSymbols, placeOf, samePlace, symbolsOf, type Explanation, type Step } from './derivation'
import { rangeAround } from './weight.svelte'

const linked = (latex: string, symbols: Record<string, string>): string => linkSymbols(latex, new Map(Object.entries(symbols)))

describe('links in formulas', () => {
  it('wraps each quantity once, the longest symbol first', () => {
    expect(linked('z_{0} = x_{0} W_{0,0} + b', { z: 'z_{0}', x: 'x_{0}', w: 'W_{0,0}', b: 'b' })).toBe(
      '\\htmlData{id=z}{z_{0}} = \\htmlData{id=x}{x_{0}} \\htmlData{id=w}{W_{0,0}} + \\htmlData{id=b}{b}',
    )
  })

  it('leaves commands and longer names alone', () => {
    expect(linked('L = \\ell', { loss: 'L', one: '\\ell' })).toBe('\\htmlData{id=loss}{L} = \\htmlData{id=one}{\\ell}')
    expect(linked('\\frac{\\partial L}{\\partial W_{0}}', { w: 'W_{0}', l: 'l' })).toBe('\\frac{\\partial L}{\\partial \\htmlData{id=w}{W_{0}}}')
    expect(linked("x_{0} x_{0}^2", { x: 'x' })).toBe('x_{0} x_{0}^2')
  })

  it('wraps a gradient as a whole, not the weight within it', () => {
    const gradient = '\\frac{\\partial L}{\\partial W_{0}}'
    expect(linked(`W_{0} - \\eta ${gradient}`, { w: 'W_{0}', eta: '\\eta', g: gradient })).toBe(
      `\\htmlData{id=w}{W_{0}} - \\htmlData{id=eta}{\\eta} \\htmlData{id=g}{${gradient}}`,
    )
  })

  it('knows the symbols of what a step uses', () => {
    const step = { id: 'gradient:w', symbol: 'g', uses: ['input:x', 'delta:d', 'gone'] } as Step
    const explanation = { steps: [step, { id: 'delta:d', symbol: 'd' }], quantities: [{ id: 'input:x', symbol: 'x' }] } as Explanation
    expect([...symbolsOf(step, explanation)]).toEqual([['gradient:w', 'g'], ['input:x', 'x'], ['delta:d', 'd']])
  })
})

describe('places in the picture', () => {
  it.each([
    ['gradient:hidden.kernel[0][1]', { kind: 'weight', address: 'hidden.kernel[0][1]' }],
    ['gradient:hidden.kernel[0][1]@3', { kind: 'weight', address: 'hidden.kernel[0][1]' }],
    ['parameter:output.bias[0]', { kind: 'weight', address: 'output.bias[0]' }],
    ['z:hidden[2][1]', { kind: 'neuron', layer: 'hidden', unit: 1 }],
    ['input:input[0][1]', { kind: 'neuron', layer: 'input', unit: 1 }],
    ['target:output[0][0]', { kind: 'neuron', layer: 'output', unit: 0 }],
    ['loss[2]', { kind: 'loss' }],
    ['learning_rate', null],
    ['v7[2][1]', null],
  ])('finds %s', (id, place) => {
    expect(placeOf(id)).toEqual(place)
    expect(samePlace(placeOf(id), place as never)).toBe(true)
  })
})

it('keeps the range of an error curve while a weight moves a little', () => {
  expect([rangeAround(0.9), rangeAround(-3.1), rangeAround(3.3), rangeAround(-40)]).toEqual([[-4, 4], [-4, 4], [-8, 8], [-64, 64]])
})
