/** Requests of this lab. The names of keys and of answers' parts are those of the service's description. */
import { ask, type AnswerOf, type BodyOf, type Options, type PostPath } from '../../api/client'

export type Body<P extends PostPath> = { [K in keyof BodyOf<P>]?: unknown }
type Parts<P extends PostPath> = { [K in keyof AnswerOf<P>]?: unknown }

/**
 * An answer as the lab reads it. `A` narrows the nesting of tensors, which the description leaves open; every part that it
 * names has to be a part of the service's answer, or this does not compile.
 */
export async function answerOf<P extends PostPath, A extends Parts<P>>(
  path: P, body: Body<P>, options: Options,
): Promise<A & { [K in Exclude<keyof A, keyof AnswerOf<P>>]: never }> {
  return (await ask(path, body as BodyOf<P>, options)) as never
}
