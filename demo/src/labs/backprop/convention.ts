/**
 * Whose sign gradients and deltas are shown with. Heaton prints minus the derivative, and adds where others subtract; the
 * service's derivation has the same switch. Turning the sign of a number that the service computed changes no digit of it.
 */
export type Convention = 'standard' | 'heaton'

/** A gradient or delta with the sign of the convention. 0 stays 0. */
export function shownSlope(value: number, convention: Convention): number {
  return convention === 'heaton' && value !== 0 ? -value : value
}
