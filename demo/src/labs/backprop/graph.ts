/** Where the nodes of a computational graph stand: the way forward above, from left to right; the way back below it. */

export interface GraphNode {
  name: string
  operation: string
  inputs: string[]
  text?: string
  value?: unknown
  adjoint?: unknown
  latex?: string
  shape: number[]
  phase: 'forward' | 'backward'
  layer?: string
  serves?: string
  adjoint_node?: string
  attributes?: Record<string, unknown>
}

export interface Placed {
  node: GraphNode
  column: number
  row: number
  backward: boolean
}

export interface GraphPlan {
  placed: Placed[]
  columns: number
  rows: number
  /** The first row of the way back. */
  divide: number
}

/**
 * A node stands one column before the first that takes it, so that arrows are short; a result stands one column after the
 * last of its inputs. The way back runs from right to left below: its columns are counted from the
 * right end of the way forward.
 */
export function planOf(nodes: GraphNode[]): GraphPlan {
  const forward = nodes.filter((node) => node.phase === 'forward')
  const backward = nodes.filter((node) => node.phase === 'backward')
  const depth = depths(forward)
  const columns = Math.max(0, ...depth.values()) + 1
  const back = depths(backward)
  const deepest = Math.max(0, ...back.values())
  const placed: Placed[] = []
  const above = stack(forward, depth, false, placed, 0)
  const flipped = new Map([...back].map(([name, at]) => [name, Math.max(columns, deepest + 1) - 1 - at]))
  const below = stack(backward, flipped, true, placed, above)
  return { placed, columns: Math.max(columns, deepest + 1), rows: above + below, divide: above }
}

function depths(nodes: GraphNode[]): Map<string, number> {
  const known = new Map(nodes.map((node) => [node.name, node]))
  const depth = new Map<string, number>()
  for (const node of nodes) {
    const before = node.inputs.filter((name) => known.has(name)).map((name) => depth.get(name) ?? 0)
    depth.set(node.name, before.length === 0 ? 0 : Math.max(...before) + 1)
  }
  for (const node of [...nodes].reverse()) {
    const users = nodes.filter((each) => each.inputs.includes(node.name)).map((each) => depth.get(each.name) ?? 1)
    if (users.length > 0) depth.set(node.name, Math.max(0, Math.min(...users) - 1))
  }
  return depth
}

function stack(nodes: GraphNode[], column: Map<string, number>, backward: boolean, placed: Placed[], first: number): number {
  const filled = new Map<number, number>()
  for (const node of nodes) {
    const at = column.get(node.name) ?? 0
    const row = filled.get(at) ?? 0
    filled.set(at, row + 1)
    placed.push({ node, column: at, row: first + row, backward })
  }
  return Math.max(0, ...filled.values())
}

/** The first numbers of a nested list, for a node's caption. */
export function firstNumbers(value: unknown, most: number): { numbers: number[]; more: boolean } {
  const flat = (Array.isArray(value) ? value.flat(Infinity) : [value]).filter((each) => typeof each === 'number')
  return { numbers: flat.slice(0, most) as number[], more: flat.length > most }
}
