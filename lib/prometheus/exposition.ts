import { BACKEND_FAMILIES } from './backend-families.ts'
import { bucketsOf, LE } from './buckets.ts'
import type { Family } from './family.ts'
import type { Format } from './format.ts'
import { escapeHelp } from './labels.ts'
import type { Collector } from './sources.ts'
import { UPSTREAM_FAMILIES } from './upstream-families.ts'

/** Characters after which a piece is handed over: what takes about a millisecond. */
const PIECE = 65_536

/** What series are read from, with its labels as text. */
interface Labelled {
  readonly text: string
}

/**
 * Writes all metrics, in pieces, so that other work can be done between them: of a thousand backends there is a lot to say.
 * Sources: Prometheus' text format 0.0.4; OpenMetrics 1.0.
 */
export function * expose (collector: Collector, format: Format): Generator<string, void, undefined> {
  let piece = ''
  for (const part of partsOf(collector, format)) {
    piece += part
    if (piece.length < PIECE) continue
    yield piece
    piece = ''
  }
  yield format === 'openmetrics' ? `${piece}# EOF\n` : piece
}

function * partsOf (collector: Collector, format: Format): Generator<string, void, undefined> {
  const upstreams = collector.sources()
  for (const family of UPSTREAM_FAMILIES) yield * familyParts(family, upstreams, format)
  const told = upstreams.flatMap(upstream => upstream.told)
  const timed = upstreams.flatMap(upstream => upstream.timed)
  for (const family of BACKEND_FAMILIES) yield * familyParts(family, family.type === 'histogram' ? timed : told, format)
}

/** The series of all sources, together below what describes them; nothing where there are none. */
function * familyParts<Source extends Labelled> (family: Family<Source>, sources: readonly Source[], format: Format): Generator<string, void, undefined> {
  const seriesOf = family.type === 'histogram' ? histogramSeries(family) : numberSeries(family)
  let part = ''
  let told = false
  for (const source of sources) {
    const series = seriesOf(source)
    part += told || series === '' ? series : headOf(family, format) + series
    told ||= series !== ''
    if (part.length < PIECE) continue
    yield part
    part = ''
  }
  yield part
}

function headOf ({ name, type, help }: Family<never>, format: Format): string {
  const described = format === 'openmetrics' && type === 'counter' ? name.slice(0, -'_total'.length) : name
  return `# HELP ${described} ${escapeHelp(help)}\n# TYPE ${described} ${type}\n`
}

function numberSeries<Source extends Labelled> (family: Exclude<Family<Source>, { type: 'histogram' }>): (source: Source) => string {
  const { name, label } = family
  let text = ''
  let series = ''
  const tell = (number: number, value?: string): void => {
    series += value === undefined ? `${name}{${text}} ${written(number)}\n` : `${name}{${text},${label}="${value}"} ${written(number)}\n`
  }
  return source => {
    series = ''
    text = source.text
    family.read(source, tell)
    return series
  }
}

function histogramSeries<Source extends Labelled> ({ name, histogramOf }: Extract<Family<Source>, { type: 'histogram' }>): (source: Source) => string {
  return source => {
    const { text } = source
    const { counts, sum } = bucketsOf(histogramOf(source))
    let series = ''
    for (let i = 0; i < LE.length; i++) series += `${name}_bucket{${text},le="${LE[i]}"} ${counts[i]}\n`
    return `${series}${name}_sum{${text}} ${sum}\n${name}_count{${text}} ${counts[LE.length - 1]}\n`
  }
}

function written (number: number): string {
  if (number === Infinity) return '+Inf'
  return number === -Infinity ? '-Inf' : String(number)
}
