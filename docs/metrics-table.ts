/** The table of all metrics in docs/metrics.md, from what writes them. */
import { BACKEND_FAMILIES, UPSTREAM_FAMILIES } from '../lib/prometheus/index.ts'

type Family = typeof UPSTREAM_FAMILIES[number] | typeof BACKEND_FAMILIES[number]

function table (families: readonly Family[], labels: string[]): string {
  const rows = families.map(family => {
    const own = family.type === 'histogram' ? 'le' : family.label
    return `| \`${family.name}\` | ${family.type} | ${[...labels, ...own === undefined ? [] : [own]].map(label => `\`${label}\``).join(', ')} | ${family.help} |`
  })
  return ['| metric | type | labels | what |', '| --- | --- | --- | --- |', ...rows].join('\n')
}

/** Puts the tables into the page, between the lines that mark their places. */
export function withMetricsTables (page: string): string {
  const filled = { upstreams: table(UPSTREAM_FAMILIES, ['upstream']), backends: table(BACKEND_FAMILIES, ['upstream', 'backend']) }
  return Object.entries(filled).reduce((text, [name, rows]) => {
    const place = new RegExp(`(<!-- ${name}: written by .npm run docs. -->\\n).*?(\\n<!-- end -->)`, 's')
    if (!place.test(text)) throw new Error(`docs/metrics.md has no place for the table of ${name}`)
    return text.replace(place, (_, before: string, after: string) => `${before}\n${rows}\n${after}`)
  }, page)
}
