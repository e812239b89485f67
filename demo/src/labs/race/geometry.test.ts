import { describe, expect, it } from 'vitest'
import {
  eyePlace,
  frameOf,
  fromScene,
  roundTicks,
  roundTo,
  solidOf,
  toDomain,
  toPixel,
  toScene,
  turned,
  zoomed,
} from './geometry'

const margins = { left: 40, right: 10, top: 10, bottom: 30 }

describe('the frame of the 2-D picture', () => {
  it('has equal units where the domain is not too long', () => {
    const frame = frameOf(900, 600, [-5, 5], [-5, 5], margins)
    expect(frame.equal).toBe(true)
    expect(frame.width).toBeCloseTo(frame.height)
    expect(frame.left + frame.width).toBeLessThanOrEqual(890)
  })

  it('fills the picture otherwise', () => {
    const frame = frameOf(900, 600, [-12, 12], [-2, 2], margins)
    expect(frame).toMatchObject({ equal: false, width: 850, height: 560 })
  })

  it('comes back from pixels', () => {
    const frame = frameOf(900, 600, [-5, 10], [0, 15], margins)
    const [x, y] = toDomain(frame, ...toPixel(frame, 2.5, 11))
    expect([x, y]).toEqual([expect.closeTo(2.5), expect.closeTo(11)])
    expect(toPixel(frame, 0, 15)[1]).toBeCloseTo(frame.top)
  })
})

describe('round numbers', () => {
  it('have the digits that a pixel tells', () => {
    expect(roundTo(1.23456, 10)).toBe(1.23)
    expect(roundTo(-0.000123456, 0.01)).toBe(-0.00012)
    expect(roundTo(1234.56, 10_000)).toBe(1230)
  })

  it('lie on the axis', () => {
    expect(roundTicks(-5, 5, 5)).toEqual([-4, -2, 0, 2, 4])
    expect(roundTicks(0, 1, 5)).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1])
    for (const count of [2, 4, 9]) expect(roundTicks(-2.2, 7.1, count).length).toBeLessThanOrEqual(count + 1)
  })
})

describe('the scene', () => {
  it('maps the domain to its ground and back', () => {
    const solid = solidOf([-12, 12], [-2, 2])
    expect(solid.x).toBe(1)
    expect(toScene(solid, [-12, 12], [-2, 2], 12, 2)).toEqual([1, solid.y])
    const [sx, sy] = toScene(solid, [-12, 12], [-2, 2], 3, -1)
    expect(fromScene(solid, [-12, 12], [-2, 2], sx, sy)).toEqual([expect.closeTo(3), expect.closeTo(-1)])
  })

  it('has an eye that turns about it', () => {
    const [x, y, z] = eyePlace([0, 30, 1], 2)
    expect([x, y, z]).toEqual([expect.closeTo(0), expect.closeTo(-Math.sqrt(3)), expect.closeTo(1)])
    expect(turned([170, 30, 1], -100, 0)[0]).toBe(-150)
    expect(turned([0, 30, 1], 0, 1000)[1]).toBe(88)
    expect(zoomed([0, 30, 1], 100)[2]).toBe(2.2)
  })
})
