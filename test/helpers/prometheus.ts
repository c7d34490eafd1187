/** Reads what Prometheus would read, and minds more than Prometheus does. */

/** One series of a scrape. */
export interface Sample {
  name: string
  labels: Record<string, string>
  value: number
}

/** What is said of a name, and its series. */
export interface ScrapedFamily {
  name: string
  type: string
  help: string
  samples: Sample[]
}

/** A scrape by the names of its families. */
export class Scrape {
  readonly families = new Map<string, ScrapedFamily>()

  get samples (): Sample[] {
    return [...this.families.values()].flatMap(({ samples }) => samples)
  }

  /** The series of a name that have such labels. */
  all (name: string, labels: Record<string, string> = {}): Sample[] {
    return this.samples.filter(sample => sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value))
  }

  /** The value of the only one; throws where there are none or several. */
  value (name: string, labels: Record<string, string> = {}): number {
    const found = this.all(name, labels)
    if (found.length !== 1) throw new Error(`${found.length} series ${name} ${JSON.stringify(labels)}`)
    return found[0].value
  }
}

const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)/y
const NUMBER = /^(?:[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|NaN)$/

/** Parses text 0.0.4 or OpenMetrics 1.0. Throws where that is broken: also where series are repeated, scattered, or not described before. */
export function parseScrape (text: string, openMetrics = false): Scrape {
  const scrape = new Scrape()
  const seen = new Set<string>()
  let family: ScrapedFamily | undefined
  let rest = text
  if (openMetrics) {
    if (!text.endsWith('\n# EOF\n')) throw new Error('no # EOF at the end')
    rest = text.slice(0, -'# EOF\n'.length)
  }
  if (!rest.endsWith('\n')) throw new Error('the last line does not end')
  for (const line of rest.slice(0, -1).split('\n')) {
    const described = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line)
    if (described !== null) {
      const [, what, name, said] = described
      if (what === 'HELP') {
        if (scrape.families.has(name)) throw new Error(`${name} is described twice`)
        family = { name, help: said, type: '', samples: [] }
        scrape.families.set(name, family)
      } else if (family?.name !== name || family.type !== '' || family.samples.length > 0) throw new Error(`TYPE out of place: ${line}`)
      else family.type = said
      continue
    }
    const sample = parseSample(line)
    if (family === undefined || !namesOf(family, openMetrics).includes(sample.name)) throw new Error(`not described: ${line}`)
    const key = `${sample.name} ${JSON.stringify(Object.entries(sample.labels).sort())}`
    if (seen.has(key)) throw new Error(`twice: ${line}`)
    seen.add(key)
    family.samples.push(sample)
  }
  for (const { type, samples } of scrape.families.values()) if (type === 'histogram') checkHistogram(samples)
  return scrape
}

function namesOf ({ name, type }: ScrapedFamily, openMetrics: boolean): string[] {
  if (type === 'histogram') return [`${name}_bucket`, `${name}_sum`, `${name}_count`]
  return [openMetrics && type === 'counter' ? `${name}_total` : name]
}

function parseSample (line: string): Sample {
  const parts = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/s.exec(line)
  if (parts === null) throw new Error(`not a series: ${line}`)
  const [, name, given = '', number] = parts
  if (!NUMBER.test(number)) throw new Error(`not a number: ${line}`)
  const labels: Record<string, string> = Object.create(null)
  LABEL.lastIndex = 0
  while (LABEL.lastIndex < given.length) {
    const label = LABEL.exec(given)
    if (label === null) throw new Error(`labels are broken: ${line}`)
    if (label[1] in labels) throw new Error(`a label twice: ${line}`)
    labels[label[1]] = label[2].replaceAll(/\\(.)/g, (_, character: string) => character === 'n' ? '\n' : character)
  }
  return { name, labels, value: Number(number.replace('Inf', 'Infinity')) }
}

/** Buckets never fall, and the last one holds all. */
function checkHistogram (samples: Sample[]): void {
  const last = new Map<string, { value: number, le: number }>()
  const keyOf = ({ le: _, ...labels }: Record<string, string>) => JSON.stringify(Object.entries(labels).sort())
  for (const { name, labels, value } of samples) {
    const key = keyOf(labels)
    const before = last.get(key) ?? { value: 0, le: -Infinity }
    if (name.endsWith('_bucket')) {
      const le = Number(labels.le.replace('Inf', 'Infinity'))
      if (value < before.value || le <= before.le) throw new Error(`buckets of ${name} ${key} fall`)
      last.set(key, { value, le })
    } else if (name.endsWith('_count') && (value !== before.value || before.le !== Infinity)) throw new Error(`${name} ${key} is not what its buckets hold`)
  }
}
