/** Records of a long run in bounded memory: all of them while they are few, then every second, fourth, eighth … */

export class Kept<R extends { step: number }> {
  readonly #most: number
  #records: R[] = []
  /** Of so many records one is kept. */
  #every = 1
  /** How many were added. */
  #count = 0
  /** Whether the newest is there only because it is the newest. */
  #extra = false

  /** `most` is the largest number of records that are kept, the newest besides. */
  constructor(most: number) {
    this.#most = most
  }

  /** Add a record of a later step; one that is known already is left out. */
  add(record: R): void {
    if (record.step <= this.last) return
    if (this.#extra) this.#records.pop()
    this.#records.push(record)
    this.#extra = this.#count % this.#every !== 0
    this.#count += 1
    if (!this.#extra && this.#records.length > this.#most) {
      this.#every *= 2
      this.#records = this.#records.filter((_, index) => index % 2 === 0)
      if (this.#records.at(-1) !== record) {
        this.#records.push(record)
        this.#extra = true
      }
    }
  }

  /** The newest step. */
  get last(): number {
    return this.#records.at(-1)?.step ?? 0
  }

  list(): R[] {
    return [...this.#records]
  }
}

/** Numbers in all kept records together, and how many records a picture can show. */
const MOST_NUMBERS = 1_000_000
const MOST_RECORDS = 2_000
const FEWEST_RECORDS = 100

/** How many records are kept if each has so many numbers. */
export function mostRecords(numbers: number): number {
  return Math.min(MOST_RECORDS, Math.max(FEWEST_RECORDS, Math.floor(MOST_NUMBERS / Math.max(1, numbers))))
}

/** Every how many steps are recorded, so that there are at most `most` records. */
export function recordEvery(steps: number, most: number): number {
  return Math.max(1, Math.ceil(steps / most))
}
