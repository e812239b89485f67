import 'katex/dist/katex.min.css'
import katex from 'katex'

export function typeset(latex: string, block: boolean): string {
  return katex.renderToString(latex, { displayMode: block, output: 'htmlAndMathml', throwOnError: false, strict: 'ignore' })
}
