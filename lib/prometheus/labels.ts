import { proxyError } from '../errors.ts'

/** Names of labels and their values. */
export type Labels = Readonly<Record<string, string>>

const ESCAPES: Record<string, string> = { '\\': '\\\\', '"': '\\"', '\n': '\\n' }

/** A value as it stands between quotes. */
export function escapeLabelValue (value: string): string {
  return value.replaceAll(/[\\"\n]/g, character => ESCAPES[character])
}

/** A help text as it stands behind its name. */
export function escapeHelp (text: string): string {
  return text.replaceAll(/[\\\n]/g, character => ESCAPES[character])
}

/** Labels as they stand between braces. */
export function labelsText (labels: Labels): string {
  return Object.entries(labels).map(([name, value]) => `${name}="${escapeLabelValue(value)}"`).join(',')
}

/** Labels that are the metrics' own. */
const OWN: ReadonlySet<string> = new Set(['upstream', 'backend', 'outcome', 'stage', 'state', 'direction', 'event', 'result', 'le'])

/** Throws `INVALID_OPTIONS` where labels of the application's cannot stand beside the metrics' own. */
export function checkLabels (labels: Labels, path: string): void {
  for (const name of Object.keys(labels)) {
    if (OWN.has(name)) throw proxyError('INVALID_OPTIONS', undefined, `${path}.${name} must not be there: metrics have a label of that name themselves`)
    if (!/^(?!__)[a-zA-Z_][a-zA-Z0-9_]*$/.test(name)) throw proxyError('INVALID_OPTIONS', undefined, `${path} must have names of letters, digits and _, with no digit and no __ at their beginning, and has '${name}'`)
  }
}
