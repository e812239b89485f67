/** Which valleys the balls of each optimizer came to. */

import type { Descent } from './race.svelte'

export interface Standing {
  /** How many arrived at each valley. */
  valleys: number[]
  /** Arrived nowhere, and did not diverge. */
  elsewhere: number
  diverged: number
  /** Why one of those diverged, in the service's words. */
  example: string
}

export function standings(descent: Pick<Descent, 'optimizers' | 'runs' | 'valleys'>): Standing[] {
  const rows = descent.optimizers.map(
    (): Standing => ({ valleys: descent.valleys.map(() => 0), elsewhere: 0, diverged: 0, example: '' }),
  )
  for (const run of descent.runs) {
    const row = rows[run.optimizer]!
    if (run.status === 'diverged') {
      row.diverged += 1
      row.example ||= run.reason
    } else if (run.valley === null) row.elsewhere += 1
    else row.valleys[run.valley]! += 1
  }
  return rows
}
