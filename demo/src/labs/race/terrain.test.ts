import { describe, expect, it } from 'vitest'
import { heightTable } from './colours'
import { paintTerrain, reliefOf, shadeOf } from './terrain'

const table = heightTable(false)

function painted(values: number[], columns: number, rows: number, options = {}): Uint8ClampedArray {
  const pixels = new Uint8ClampedArray(4 * 16 * 16)
  const relief = reliefOf(Float64Array.from(values), columns, rows, (value) => value)
  paintTerrain(pixels, 16, 16, relief, { table, dark: false, shade: 0, ...options })
  return pixels
}
const pixel = (pixels: Uint8ClampedArray, column: number, row: number): number[] => [
  ...pixels.slice(4 * (16 * row + column), 4 * (16 * row + column) + 3),
]

describe('the picture of a surface', () => {
  it('has high y at its top and the colours of heights', () => {
    const pixels = painted([0, 0, 1, 1], 2, 2)
    expect(pixel(pixels, 8, 0)[1]).toBeGreaterThan(pixel(pixels, 8, 15)[1]!)
    expect(pixel(pixels, 3, 15)).toEqual(pixel(pixels, 12, 15))
  })

  it('hatches where there is no value', () => {
    const pixels = painted([NaN, NaN, NaN, NaN], 2, 2)
    const seen = new Set(Array.from({ length: 8 }, (_, column) => pixel(pixels, column, 0).join()))
    expect(seen.size).toBe(2)
  })

  it('colours basins by valley', () => {
    const grid = { columns: 2, rows: 2, valleys: Int16Array.from([0, 1, -1, -2]) }
    const colour = (valley: number): [number, number, number] => [100 + valley, 0, 0]
    const pixels = painted([0, 0, 0, 0], 2, 2, { basins: { grid, colour } })
    expect(pixel(pixels, 0, 15)).toEqual([100, 0, 0])
    expect(pixel(pixels, 15, 15)).toEqual([101, 0, 0])
    expect(pixel(pixels, 0, 0)).toEqual([196, 196, 200])
    expect(new Set([8, 9, 10, 11, 12, 13].map((column) => pixel(pixels, column, 0).join())).size).toBe(2)
  })

  it('is lighter where it faces the sun', () => {
    expect(shadeOf(0, 0)).toBe(0)
    expect(shadeOf(2, -2)).toBeGreaterThan(0)
    expect(shadeOf(-2, 2)).toBeLessThan(0)
  })
})
