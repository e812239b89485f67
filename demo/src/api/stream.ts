/** Answers that come line by line while the service computes (NDJSON over one fetch). */

import { spoken, t } from '../stage/language.svelte'
import { send, type BodyOf, type LineOf, type Options, type StreamPath } from './client'
import { lines } from './lines'
import { isAbort, Problem, type ProblemDocument } from './problem'
import { recorded, type Recorded } from './recorded.svelte'

const NDJSON = 'application/x-ndjson'

/** Each line as it comes. Throws `Problem`, also one that the service tells in the middle of a stream. */
export async function* stream<P extends StreamPath>(
  path: P, body: BodyOf<P>, options: Options = {},
): AsyncGenerator<LineOf<P>> {
  const entry = recorded.begin(options.panel, {
    method: 'POST', path, body, accept: NDJSON, language: spoken.language,
  })
  yield* values<LineOf<P>>(entry, options)
}

/** The same of a resource that is only read. `alive` is called whenever something arrives, signs of life included. */
export async function* streamed<L>(path: string, options: Options = {}, alive?: () => void): AsyncGenerator<L> {
  const entry = recorded.begin(options.panel, {
    method: 'GET', path, body: undefined, accept: NDJSON, language: spoken.language,
  })
  yield* values<L>(entry, options, alive)
}

async function* values<L>(entry: Recorded, options: Options, alive?: () => void): AsyncGenerator<L> {
  const response = await send(entry, options)
  for await (const line of lines(pieces(response, entry, alive))) {
    const value = JSON.parse(line) as Record<string, unknown>
    if ('problem' in value) throw new Problem(value['problem'] as ProblemDocument)
    if (Object.keys(value).length) yield value as L // an empty object is a sign of life
  }
}

async function* pieces(response: Response, entry: Recorded, alive?: () => void): AsyncGenerator<Uint8Array> {
  const reader = response.body!.getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      entry.bytes += value.length
      alive?.()
      yield value
    }
  } catch (error) {
    if (isAbort(error)) throw error
    throw new Problem({ title: t('stage.fault.cut'), detail: t('stage.fault.cut_detail') })
  } finally {
    await reader.cancel().catch(() => undefined)
  }
}
