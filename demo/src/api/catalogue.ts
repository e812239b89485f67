/** Types of the catalogue, as the service describes it. */
import type { Json } from '../stage/links'
import type { components } from './schema'

export type Entry = components['schemas']['CatalogueEntry']
export type Option = components['schemas']['BlockOption']

/** The default of an option; undefined where there is none, or the block is not known. */
export function defaultOf(entries: Entry[], name: string, option: string): Json | undefined {
  const found = entries.find((each) => each.name === name)?.options.find((each) => each.name === option)
  return found?.default as Json | undefined
}
