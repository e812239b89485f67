/** The runs that this page started, in the browser's store: where they are shown, and how they stood when last seen. */
import { Problem } from '../api/problem'
import { readRun, removeRun, type RunEntry } from './service'
import { hasEnded } from './words'

export interface MyRun {
  id: string
  /** The fragment of the address that shows it. */
  link: string
  /** What it is, in names of the service: data and optimizer. */
  about: string[]
  /** How it stood when it was last seen. */
  entry: RunEntry
}

const STORED = 'nabla.runs'
/** The oldest are forgotten; the service keeps them. */
const MOST = 12

class MyRuns {
  list = $state.raw<MyRun[]>(stored())

  add(run: MyRun): void {
    this.#set([run, ...this.list.filter((each) => each.id !== run.id)].slice(0, MOST))
  }

  /** Note how a run stands; one that this page did not start is not noted. */
  note(entry: RunEntry): void {
    const known = this.list.find((each) => each.id === entry.id)
    if (!known) return
    const { id, kind, status, step, of } = entry
    if (known.entry.status === status && known.entry.step === step && known.entry.of === of) return
    const noted = { id, kind, status, step, of }
    this.#set(this.list.map((each) => (each.id === id ? { ...each, entry: noted } : each)))
  }

  remove(id: string): void {
    this.#set(this.list.filter((each) => each.id !== id))
  }

  /** Remove a run from the service too; where that fails, it stays. */
  async erase(id: string): Promise<void> {
    try {
      await removeRun(id)
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 404) return
    }
    this.remove(id)
  }

  /** Ask how those stand that had not ended. One that the service no longer has is forgotten. */
  async refresh(signal?: AbortSignal): Promise<void> {
    for (const { id } of this.list.filter((each) => !hasEnded(each.entry))) {
      try {
        this.note(await readRun(id, { signal }))
      } catch (error) {
        if (error instanceof Problem && error.status === 404) this.remove(id)
        else return // without an answer, what is known stays
      }
    }
  }

  #set(list: MyRun[]): void {
    this.list = list
    try {
      localStorage.setItem(STORED, JSON.stringify(list))
    } catch {
      // They are known until the page is closed.
    }
  }
}

function stored(): MyRun[] {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(STORED) ?? '[]')
    return Array.isArray(found) ? found.filter(isMine).slice(0, MOST) : []
  } catch {
    return []
  }
}

function isMine(value: unknown): value is MyRun {
  const run = value as Partial<MyRun> | null
  return (
    typeof run?.id === 'string' && typeof run.link === 'string' && Array.isArray(run.about) &&
    typeof run.entry?.status === 'string' && typeof run.entry.step === 'number' && typeof run.entry.of === 'number'
  )
}

export const myRuns = new MyRuns()
