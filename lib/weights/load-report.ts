import type { LoadReport } from '../../types/index.ts'

/** Our names of what a report may say. */
const fields: Record<string, keyof LoadReport> = {
  cpu_utilization: 'cpuUtilization',
  mem_utilization: 'memoryUtilization',
  application_utilization: 'applicationUtilization',
  rps_fractional: 'requestsPerSecond',
  eps: 'errorsPerSecond'
}

/**
 * Reads an `endpoint-load-metrics` field, in its forms `TEXT key=value, …` and `JSON {…}`; `undefined` for any other, and for one that
 * says nothing of what is known here. Source: xDS's ORCA load report.
 */
export function parseLoadReport (value: string): LoadReport | undefined {
  const [, form, content] = /^\s*(?:(TEXT|JSON)\s)?(.*)$/si.exec(value) as unknown as [string, string | undefined, string]
  const pairs = form?.toUpperCase() === 'JSON' || (form === undefined && content.startsWith('{')) ? fromJson(content) : fromText(content)
  const report: LoadReport = { cpuUtilization: 0, memoryUtilization: 0, applicationUtilization: 0, requestsPerSecond: 0, errorsPerSecond: 0 }
  let told = false
  for (const [name, given] of pairs) {
    const field = Object.hasOwn(fields, name) ? fields[name] : undefined
    const number = typeof given === 'string' && given.trim() !== '' ? Number(given) : given
    if (field === undefined || typeof number !== 'number' || !Number.isFinite(number) || number < 0) continue
    report[field] = number
    told = true
  }
  return told ? report : undefined
}

function fromText (text: string): [string, unknown][] {
  return text.split(',').map(pair => {
    const at = pair.search(/[=:]/)
    return [pair.slice(0, at === -1 ? undefined : at).trim(), at === -1 ? undefined : pair.slice(at + 1)]
  })
}

/** Names of protobuf's JSON are in camel case. */
function fromJson (text: string): [string, unknown][] {
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed !== 'object' || parsed === null) return []
    return Object.entries(parsed).map(([name, value]) => [name.replaceAll(/[A-Z]/g, letter => `_${letter.toLowerCase()}`), value])
  } catch {
    return []
  }
}
