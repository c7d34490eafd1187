/** How metrics are written. */
export type Format = 'text' | 'openmetrics'

/** What each is called. */
export const CONTENT_TYPES: Readonly<Record<Format, string>> = Object.freeze({
  text: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8'
})

/**
 * The format that a client likes better, by its `Accept`; text where it does not say. Nobody is refused: what is asked for by hand comes with any `Accept`.
 * RFC 9110, 12.5.1.
 */
export function formatFor (accept: string | undefined): Format {
  let openmetrics = 0
  let text = 0
  for (const range of (accept ?? '').split(',')) {
    const [type, ...parameters] = range.split(';').map(part => part.trim().toLowerCase())
    const given = new Map(parameters.map(parameter => [parameter.slice(0, parameter.indexOf('=')), parameter.slice(parameter.indexOf('=') + 1).replaceAll('"', '')]))
    const quality = Number(given.get('q') ?? 1)
    if (!(quality > 0)) continue
    if (type === 'application/openmetrics-text' && ['1.0.0', undefined].includes(given.get('version'))) openmetrics = Math.max(openmetrics, quality)
    else if (type === 'text/plain') text = Math.max(text, quality)
  }
  return openmetrics > 0 && openmetrics >= text ? 'openmetrics' : 'text'
}
