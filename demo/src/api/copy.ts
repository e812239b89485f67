/** A recorded request as programs that make it again. */

import type { Request } from './recorded.svelte'

export type Form = 'curl' | 'python' | 'javascript'
export const FORMS: Form[] = ['curl', 'python', 'javascript']

/** The program in one of the forms; `root` is the address of the service, `keyed` whether it asks for a key. */
export function program(form: Form, request: Request, root: string, keyed = false): string {
  return { curl, python, javascript }[form](request, root, keyed)
}

function headersOf(request: Request): [string, string][] {
  const headers: [string, string][] = []
  if (request.body !== undefined) headers.push(['Content-Type', 'application/json'])
  if (request.accept !== 'application/json') headers.push(['Accept', request.accept])
  if (request.language !== 'en') headers.push(['Accept-Language', request.language])
  return headers
}

function curl(request: Request, root: string, keyed: boolean): string {
  const parts = [`curl -s${streamed(request) ? 'N' : ''} ${quoted(root + request.path)}`]
  for (const [name, value] of headersOf(request)) parts.push(`-H ${quoted(`${name}: ${value}`)}`)
  if (keyed) parts.push('-H "Authorization: Bearer $NABLA_KEY"')
  if (request.method === 'DELETE' || (request.method === 'POST' && request.body === undefined)) parts.push(`-X ${request.method}`)
  if (request.body !== undefined) parts.push(`-d ${quoted(JSON.stringify(request.body))}`)
  return parts.join(' \\\n  ')
}

/** In single quotes, as a shell reads it literally. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`
}

function python(request: Request, root: string, keyed: boolean): string {
  const headers = headersOf(request).filter(([name]) => name !== 'Content-Type')
  const entries = headers.map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`)
  if (keyed) entries.push('"Authorization": "Bearer " + os.environ["NABLA_KEY"]')
  const more = [
    ...(request.body === undefined ? [] : ['json=body']),
    ...(entries.length ? [`headers={${entries.join(', ')}}`] : []),
    ...(streamed(request) ? ['stream=True'] : []),
  ]
  const call = `requests.${request.method.toLowerCase()}(${[JSON.stringify(root + request.path), ...more].join(', ')})`
  const imports = [...(streamed(request) ? ['json'] : []), ...(keyed ? ['os'] : [])].map((name) => `import ${name}\n`)
  return [
    `${imports.join('')}import requests`,
    ...(request.body === undefined ? [] : [`\nbody = ${literal(request.body)}`]),
    `answer = ${call}`,
    'answer.raise_for_status()',
    streamed(request) ? 'for line in answer.iter_lines():\n    print(json.loads(line))' : 'print(answer.json())',
  ].join('\n')
}

/** A JSON value as Python writes it. */
export function literal(value: unknown): string {
  if (value === null || value === undefined) return 'None'
  if (value === true) return 'True'
  if (value === false) return 'False'
  if (Array.isArray(value)) return `[${value.map(literal).join(', ')}]`
  if (typeof value === 'object') {
    const entries = Object.entries(value).filter(([, member]) => member !== undefined)
    return `{${entries.map(([name, member]) => `${JSON.stringify(name)}: ${literal(member)}`).join(', ')}}`
  }
  return JSON.stringify(value)
}

function javascript(request: Request, root: string, keyed: boolean): string {
  const headers = headersOf(request).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`)
  if (keyed) headers.push('"Authorization": `Bearer ${key}`')
  const options = [
    ...(request.method === 'GET' ? [] : [`method: "${request.method}"`]),
    ...(headers.length ? [`headers: { ${headers.join(', ')} }`] : []),
    ...(request.body === undefined ? [] : [`body: JSON.stringify(${JSON.stringify(request.body)})`]),
  ]
  const init = options.length ? `, {\n  ${options.join(',\n  ')},\n}` : ''
  const reading = streamed(request)
    ? 'for (const line of (await answer.text()).trim().split("\\n")) console.log(JSON.parse(line));'
    : 'console.log(await answer.json());'
  return `const answer = await fetch(${JSON.stringify(root + request.path)}${init});\n${reading}`
}

function streamed(request: Request): boolean {
  return request.accept === 'application/x-ndjson'
}
