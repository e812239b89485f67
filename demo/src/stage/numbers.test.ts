import { describe, expect, it } from 'vitest'
import { bytes, format, full, signed } from './numbers'

describe('format', () => {
  it.each([
    [0, '0'], [-0, '0'], [1, '1.000'], [0.25, '0.2500'], [-3.14159265, '−3.142'], [1234.5678, '1235'], [99999.5, '100000'],
    [123456, '123456'], [1e6, '1.000e6'], [-2.5e-7, '−2.500e−7'], [9.99996e-5, '0.0001000'], [0.00012346, '0.0001235'],
    [5e-324, '4.941e−324'], [1.7976931348623157e308, '1.798e308'], [Infinity, '∞'], [-Infinity, '−∞'], [NaN, 'NaN'],
    [null, 'NaN'], [undefined, 'NaN'],
  ])('writes %s as %s', (value, text) => {
    expect(format(value)).toBe(text)
  })

  it('keeps four digits of any number', () => {
    for (let exponent = -300; exponent < 300; exponent += 7) {
      for (const mantissa of [1.23456, 9.87654, 3.5]) {
        const x = mantissa * 10 ** exponent
        const read = Number(format(x).replaceAll('−', '-'))
        expect(Math.abs(read - x)).toBeLessThanOrEqual(0.5e-3 * x)
      }
    }
  })
})

it('tells every digit', () => {
  expect(Number(full(0.1 + 0.2))).toBe(0.1 + 0.2)
  expect(full(null)).toBe('NaN')
})

it('shows signs by glyph and by name', () => {
  expect(signed(0.5)).toEqual({ text: '+0.5000', name: 'positive' })
  expect(signed(-0.5)).toEqual({ text: '−0.5000', name: 'negative' })
  expect(signed(0)).toEqual({ text: '0', name: 'zero' })
  expect(signed(null).name).toBe('zero')
})

it('tells sizes', () => {
  expect([bytes(17), bytes(1234), bytes(12345678)]).toEqual(['17 B', '1.23 kB', '12.3 MB'])
})
