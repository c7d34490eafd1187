import type { TextMapGetter, TextMapSetter } from '@opentelemetry/api'
import { isFieldName, isFieldValue } from '../field-syntax.ts'

/** Reads fields of a request: names and values in turn. */
export const fieldGetter: TextMapGetter<readonly string[]> = {
  keys: fields => [...new Set(fields.filter((_, i) => i % 2 === 0).map(name => name.toLowerCase()))],
  get (fields, key) {
    const name = key.toLowerCase()
    const values = fields.filter((_, i) => i % 2 === 1 && fields[i - 1].toLowerCase() === name)
    // Several `tracestate` are one list; several `traceparent` are none, and so is what this makes of them. W3C Trace Context, 3.2.1.
    return values.length === 0 ? undefined : values.join(',')
  }
}

/** Collects fields as names and values in turn. Throws for one that cannot be sent. */
export const fieldSetter: TextMapSetter<string[]> = {
  set (fields, key, value) {
    const text = String(value)
    if (!isFieldName(key) || !isFieldValue(text)) throw new TypeError(`the propagator wants to send a field '${key}' that cannot be sent`)
    fields.push(key, text)
  }
}

/** Puts fields in the place of all those of the names, and of their own names. */
export function replaceFields (fields: string[], names: readonly string[], by: readonly string[]): void {
  const stale = new Set([...names, ...by.filter((_, i) => i % 2 === 0)].map(name => name.toLowerCase()))
  for (let i = fields.length - 2; i >= 0; i -= 2) {
    if (stale.has(fields[i].toLowerCase())) fields.splice(i, 2)
  }
  fields.push(...by)
}
