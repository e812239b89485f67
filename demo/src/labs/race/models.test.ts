import { describe, expect, it } from 'vitest'
import { XOR } from './models'

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

describe('the loss of the XOR network', () => {
  it('is what the guide says of the network', () => {
    const body = XOR.expression.replaceAll('^2', '**2')
    const loss = new Function('sigmoid', 'v', 'w', `return ${body}`) as (s: typeof sigmoid, v: number, w: number) => number
    expect(loss(sigmoid, -3, 0)).toBeCloseTo(0.523791565876, 10)
    expect(loss(sigmoid, 6, -6)).toBeCloseTo(0.638651239692, 10)
  })
})
