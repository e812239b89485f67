/** Text in pieces, as lines. The last one needs no line end. */
export async function* lines(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const piece of pieces) {
    const parts = (rest + decoder.decode(piece, { stream: true })).split('\n')
    rest = parts.pop() ?? ''
    for (const part of parts) if (part.trim()) yield part
  }
  rest += decoder.decode()
  if (rest.trim()) yield rest
}
