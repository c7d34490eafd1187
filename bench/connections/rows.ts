/** One line of a table. */
export interface Row {
  name: string
  /** Microseconds of CPU for each message or request, in the proxy's process. */
  cpu: number
  /** Messages or requests a second. */
  rate: number
}

export function median (values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]
}

/** A table whose first row is what the others are compared with. */
export function tableOf (rows: Row[], what: string, than: string): string {
  const base = rows.find(({ name }) => name === than)?.cpu as number
  return [
    `|  | CPU µs/${what} | × ${than} | ${what}s/s |`,
    '| --- | ---: | ---: | ---: |',
    ...rows.map(({ name, cpu, rate }) => `| ${name} | ${cpu.toFixed(1)} | ${(cpu / base).toFixed(2)} | ${rate.toFixed(0)} |`)
  ].join('\n')
}
