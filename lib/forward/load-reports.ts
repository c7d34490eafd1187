import type { Backend } from '../backend.ts'
import { parseLoadReport } from '../weights/index.ts'
import { latin1 } from './latin1.ts'

/** The field, and its binary twin, which is not read. */
const FIELD = 'endpoint-load-metrics'
const BINARY = 'endpoint-load-metrics-bin'

/** Takes what a backend reports of its load out of its fields: it is meant for us, and clients need not know. */
export function takeLoadReports<Text extends Buffer | string> (fields: readonly Text[], backend: Backend, now: number): Text[] {
  const others: Text[] = []
  for (let i = 0; i < fields.length; i += 2) {
    const name = textOf(fields[i]).toLowerCase()
    if (name !== FIELD && name !== BINARY) others.push(fields[i], fields[i + 1])
    else if (name === FIELD) {
      const report = parseLoadReport(textOf(fields[i + 1]))
      if (report !== undefined) backend.observed?.report(report, now)
    }
  }
  return others
}

function textOf (text: Buffer | string): string {
  return typeof text === 'string' ? text : latin1(text)
}
