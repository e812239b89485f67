import { describe, expect, it } from 'vitest'
import { MARKERS, corners, css, heightColour, heightTable, parseColour, valleyColour, type RGB } from './colours'

const luminance = ([r, g, b]: RGB): number => 0.2126 * r + 0.7152 * g + 0.0722 * b

describe('colours', () => {
  it('grow lighter with height in both themes', () => {
    for (const dark of [false, true]) {
      const steps = Array.from({ length: 21 }, (_, index) => luminance(heightColour(index / 20, dark)))
      for (let index = 1; index < steps.length; index += 1) expect(steps[index]).toBeGreaterThan(steps[index - 1]!)
    }
    expect(luminance(heightColour(0.5, false))).toBeGreaterThan(luminance(heightColour(0.5, true)))
    expect(heightTable(true)).toHaveLength(768)
  })

  it('read what computed styles say', () => {
    expect(parseColour('#0b62a8')).toEqual([11, 98, 168])
    expect(parseColour(' #fff ')).toEqual([255, 255, 255])
    expect(parseColour('rgb(1, 2, 3)')).toEqual([1, 2, 3])
    expect(css([1.2, 2, 3])).toBe('rgb(1 2 3)')
    expect(css([1, 2, 3], 0.5)).toBe('rgb(1 2 3 / 0.5)')
  })

  it('differ from valley to valley', () => {
    const seen = new Set(Array.from({ length: 14 }, (_, valley) => css(valleyColour(valley, false))))
    expect(seen.size).toBe(14)
  })

  it('have markers of about one size', () => {
    for (const marker of MARKERS) {
      const radii = corners(marker).map(([x, y]) => Math.hypot(x, y))
      expect(Math.max(...radii)).toBeGreaterThan(0.95)
      expect(Math.max(...radii)).toBeLessThan(1.4)
    }
  })
})
