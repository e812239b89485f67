/** Trees of parameters, as the service sends and takes them, and the addresses of single numbers in them. */

/** In answers null stands for a number that is not finite. */
export type Tensor = number | Tensor[]
export type Tree = Record<string, Record<string, Tensor>>

export interface Entry {
  /** As the service names it: `hidden.kernel[0][1]`. */
  address: string
  layer: string
  parameter: string
  index: number[]
  value: number
}

const ADDRESS = /^([^.[\]]+)\.([^.[\]]+)((?:\[\d+\])*)$/

export function addressOf(layer: string, parameter: string, index: number[]): string {
  return `${layer}.${parameter}${index.map((each) => `[${each}]`).join('')}`
}

export function parseAddress(text: string): { layer: string; parameter: string; index: number[] } | null {
  const found = ADDRESS.exec(text)
  if (!found) return null
  const index = [...(found[3] ?? '').matchAll(/\d+/g)].map((each) => Number(each[0]))
  return { layer: found[1] as string, parameter: found[2] as string, index }
}

/** Every number of a tree, in the tree's order. */
export function entriesOf(tree: Tree): Entry[] {
  const entries: Entry[] = []
  for (const [layer, tensors] of Object.entries(tree)) {
    for (const [parameter, tensor] of Object.entries(tensors)) {
      walk(tensor, [], (index, value) => {
        entries.push({ address: addressOf(layer, parameter, index), layer, parameter, index, value })
      })
    }
  }
  return entries
}

function walk(tensor: Tensor, index: number[], visit: (index: number[], value: number) => void): void {
  if (Array.isArray(tensor)) tensor.forEach((each, i) => walk(each, [...index, i], visit))
  else visit(index, tensor ?? NaN)
}

/** The number at an address, or undefined where the tree has none. */
export function valueAt(tree: Tree | null | undefined, address: string): number | undefined {
  const place = parseAddress(address)
  if (!tree || !place) return undefined
  let tensor: Tensor | undefined = tree[place.layer]?.[place.parameter]
  for (const each of place.index) tensor = Array.isArray(tensor) ? tensor[each] : undefined
  if (tensor === null) return NaN
  return typeof tensor === 'number' ? tensor : undefined
}

/** The tree with one number changed. The given tree stays as it is. */
export function withValue(tree: Tree, address: string, value: number): Tree {
  const place = parseAddress(address)
  if (!place || valueAt(tree, address) === undefined) return tree
  const put = (tensor: Tensor, index: number[]): Tensor => {
    const [first, ...rest] = index
    if (first === undefined || !Array.isArray(tensor)) return value
    return tensor.map((each, i) => (i === first ? put(each, rest) : each))
  }
  const layer = tree[place.layer] ?? {}
  const tensor = layer[place.parameter] as Tensor
  return { ...tree, [place.layer]: { ...layer, [place.parameter]: put(tensor, place.index) } }
}

export function shapeOf(tensor: Tensor | undefined): number[] {
  const shape: number[] = []
  for (let each = tensor; Array.isArray(each); each = each[0]) shape.push(each.length)
  return shape
}

/** The largest absolute finite value of a tree: the scale of widths and colours. */
export function largest(tree: Tree | null | undefined): number {
  let most = 0
  for (const { value } of entriesOf(tree ?? {})) if (Number.isFinite(value)) most = Math.max(most, Math.abs(value))
  return most
}

/** Whether a value from a link or a paste is a tree of numbers. */
export function isTree(value: unknown): value is Tree {
  const object = (each: unknown): each is Record<string, unknown> =>
    typeof each === 'object' && each !== null && !Array.isArray(each)
  const tensor = (each: unknown): boolean =>
    Array.isArray(each) ? each.length > 0 && each.every(tensor) : typeof each === 'number' && Number.isFinite(each)
  return object(value) && Object.values(value).every((layer) => object(layer) && Object.values(layer).every(tensor))
}
