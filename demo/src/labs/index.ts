/** The labs of the page, in the order of their tabs. A lab is one folder and one line here. */

import type { Component } from 'svelte'
import type { Key } from '../stage/language.svelte'

export interface Lab {
  /** Its name in links: `#race`. */
  id: string
  /** The text on its tab. */
  title: Key
  /** Loads its component when it is opened. */
  load: () => Promise<{ default: Component }>
}

export const labs: [Lab, ...Lab[]] = [
  { id: 'race', title: 'race.title', load: () => import('./race/Race.svelte') },
  { id: 'backprop', title: 'backprop.title', load: () => import('./backprop/Backprop.svelte') },
]

/** The lab of a link; the first one where the link names none. */
export function labNamed(id: string): Lab {
  return labs.find((lab) => lab.id === id) ?? labs[0]
}
