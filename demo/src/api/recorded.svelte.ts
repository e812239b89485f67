/** The requests that the page made, by the panel that each one drew. */

export type Method = 'GET' | 'POST' | 'DELETE'

export interface Request {
  method: Method
  /** Path of the service, such as /v1/gradients. */
  path: string
  body: unknown
  accept: string
  language: string
}

export interface Recorded extends Request {
  /** HTTP status; 0 while there is none. */
  status: number
  /** Size of the answer so far, before compression. */
  bytes: number
  milliseconds: number
}

class Recorder {
  panels = $state<Record<string, Recorded>>({})

  /** Note a request; the returned object is to be told of the answer. */
  begin(panel: string | undefined, request: Request): Recorded {
    const entry = $state<Recorded>({ ...request, status: 0, bytes: 0, milliseconds: 0 })
    if (panel) this.panels[panel] = entry
    return entry
  }

  of(panel: string): Recorded | undefined {
    return this.panels[panel]
  }
}
export const recorded = new Recorder()
