import type { Backend, ProxyEvent } from '../../types/index.ts'

/** Something that has happened, as a reader is told. */
export interface Message {
  /** Its place among all that have been told. */
  readonly turn: number
  /** Name of its upstream. */
  readonly upstream: string
  readonly text: string
}

/** An event of the stream: JSON has no line breaks of its own. */
export function eventText (name: string, data: object, id?: string): string {
  return `${id === undefined ? '' : `id: ${id}\n`}event: ${name}\ndata: ${JSON.stringify(data)}\n\n`
}

/** What an event tells, as plain data: of a backend its id, and times as people write them. */
export function eventData (event: ProxyEvent & { backend?: Backend, until?: number }): object {
  const { upstream, time, backend, until, ...more } = event
  return {
    upstream,
    time: new Date(time).toISOString(),
    ...(backend === undefined ? {} : { backend: backend.id }),
    ...more,
    ...(until === undefined ? {} : { until: new Date(until).toISOString() })
  }
}
