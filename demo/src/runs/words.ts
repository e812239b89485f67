/** How a run is told of in words. */
import { spoken, t } from '../stage/language.svelte'
import type { RunEntry } from './service'

const ENDS = ['completed', 'stopped', 'diverged', 'cancelled', 'failed'] as const
/** The word of `runs.status` for how a run stands. */
export type Word = 'looking' | 'sending' | 'lost' | 'waiting' | 'computing' | 'paused' | 'stopping' | (typeof ENDS)[number]

export function wordOf(entry: RunEntry, stopping = false): Word {
  const end = ENDS.find((each) => each === entry.status)
  if (end) return end
  // A run that made steps and waits again was handed back: its process ended, or others had their turn.
  if (entry.status === 'queued') return entry.step > 0 ? 'paused' : 'waiting'
  return stopping ? 'stopping' : 'computing'
}

export function hasEnded(entry: RunEntry): boolean {
  return ENDS.some((each) => each === entry.status)
}

/** The share that is done, in whole percent; 100 only at the end. */
export function percentOf(entry: RunEntry): number {
  return entry.of > 0 ? Math.min(100, Math.floor((100 * entry.step) / entry.of)) : hasEnded(entry) ? 100 : 0
}

/** A count with the marks between thousands that the language has. */
export function count(value: number): string {
  return new Intl.NumberFormat(spoken.language).format(value)
}

/** A time in the two largest units that matter. */
export function duration(seconds: number): string {
  if (seconds < 60) return t('runs.seconds', { count: Math.max(1, Math.ceil(seconds)) })
  const minutes = Math.round(seconds / 60)
  if (minutes < 60) return t('runs.minutes', { count: minutes })
  return t('runs.hours', { hours: count(Math.floor(minutes / 60)), minutes: minutes % 60 })
}
