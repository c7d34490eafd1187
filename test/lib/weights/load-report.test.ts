import fc from 'fast-check'
import t, { type Test } from 'tap'
import { parseLoadReport } from '../../../lib/weights/index.ts'
import type { LoadReport } from '../../../types/index.ts'

const nothing: LoadReport = { cpuUtilization: 0, memoryUtilization: 0, applicationUtilization: 0, requestsPerSecond: 0, errorsPerSecond: 0 }
const all: LoadReport = { cpuUtilization: 0.3, memoryUtilization: 0.8, applicationUtilization: 0.5, requestsPerSecond: 120.5, errorsPerSecond: 2 }

/** Fields as they came, and what they say; `null` for those that say nothing. */
function parses (t: Test, cases: Record<string, Partial<LoadReport> | null>): void {
  for (const [value, expected] of Object.entries(cases)) {
    t.strictSame(parseLoadReport(value), expected === null ? undefined : { ...nothing, ...expected }, JSON.stringify(value))
  }
}

t.test('text: names and numbers, with commas between them', async t => {
  parses(t, {
    'TEXT cpu_utilization=0.3,mem_utilization=0.8,application_utilization=0.5,rps_fractional=120.5,eps=2': all,
    'TEXT cpu_utilization=0.3': { cpuUtilization: 0.3 },
    'TEXT eps=0.25,rps_fractional=1e3': { errorsPerSecond: 0.25, requestsPerSecond: 1000 },
    'TEXT cpu_utilization=0': {}
  })
})

t.test('text: spaces, case of the form and what Envoy once took for `=` make no difference', async t => {
  parses(t, {
    '  TEXT   cpu_utilization = 0.3 ,  eps = 2  ': { cpuUtilization: 0.3, errorsPerSecond: 2 },
    'text cpu_utilization=0.3': { cpuUtilization: 0.3 },
    'TEXT\tcpu_utilization=0.3,\teps=2': { cpuUtilization: 0.3, errorsPerSecond: 2 },
    'TEXT cpu_utilization:0.3, eps: 2': { cpuUtilization: 0.3, errorsPerSecond: 2 },
    'cpu_utilization:0.3,eps:2': { cpuUtilization: 0.3, errorsPerSecond: 2 },
    'cpu_utilization=0.3': { cpuUtilization: 0.3 }
  })
})

t.test('JSON: an object, with the names of the message or those of protobuf\'s JSON', async t => {
  parses(t, {
    'JSON {"cpu_utilization":0.3,"mem_utilization":0.8,"application_utilization":0.5,"rps_fractional":120.5,"eps":2}': all,
    'JSON {"cpuUtilization":0.3,"memUtilization":0.8,"applicationUtilization":0.5,"rpsFractional":120.5,"eps":2}': all,
    'JSON  { "cpuUtilization" : 0.3 } ': { cpuUtilization: 0.3 },
    'json {"cpu_utilization":0.3}': { cpuUtilization: 0.3 },
    '{"cpu_utilization":0.3}': { cpuUtilization: 0.3 },
    ' {"cpu_utilization":0.3}': { cpuUtilization: 0.3 },
    'JSON {"cpu_utilization":"0.3","rpsFractional":" 12 "}': { cpuUtilization: 0.3, requestsPerSecond: 12 },
    'JSON {"cpu_utilization":3e-1}': { cpuUtilization: 0.3 }
  })
})

t.test('a utilization may be above 1: whoever is overloaded says so', async t => {
  parses(t, {
    'TEXT cpu_utilization=1.7': { cpuUtilization: 1.7 },
    'TEXT application_utilization=25': { applicationUtilization: 25 },
    'JSON {"applicationUtilization":2}': { applicationUtilization: 2 }
  })
})

t.test('what is not known is passed over', async t => {
  parses(t, {
    'TEXT cpu_utilization=0.3,foo=1,named_metrics.queue=7,request_cost.db=2,utilization.disk=0.4': { cpuUtilization: 0.3 },
    'JSON {"named_metrics":{"cpu_utilization":0.9},"utilization":{"eps":4},"requestCost":{"x":1},"eps":1}': { errorsPerSecond: 1 },
    'TEXT rps=12,eps=1': { errorsPerSecond: 1 },
    'TEXT foo=1': null,
    'TEXT named_metrics.eps=1': null,
    'JSON {"named_metrics":{"eps":1}}': null,
    'JSON {"CpuUtilization":1}': null,
    'TEXT CPU_UTILIZATION=1': null
  })
})

t.test('a number that is none, endless or below 0 is not taken, and the others are', async t => {
  for (const bad of ['NaN', 'nan', 'Infinity', '-Infinity', 'inf', '1e999', '-0.1', '-1', 'x', '0.3x', '0,3', '1 2', '', ' ']) {
    parses(t, { [`TEXT eps=1,cpu_utilization=${bad}`]: { errorsPerSecond: 1 } })
    if (bad !== '0,3') parses(t, { [`TEXT cpu_utilization=${bad}`]: null, [`JSON {"cpu_utilization":"${bad}","eps":1}`]: { errorsPerSecond: 1 } })
  }
  for (const bad of ['null', 'true', '[]', '[0.3]', '{}', '{"value":0.3}', '-0.1', '1e999', '""']) {
    parses(t, { [`JSON {"cpu_utilization":${bad},"eps":1}`]: { errorsPerSecond: 1 }, [`JSON {"cpu_utilization":${bad}}`]: null })
  }
})

t.test('of a name that comes twice the last good number holds', async t => {
  parses(t, {
    'TEXT eps=1,eps=2': { errorsPerSecond: 2 },
    'TEXT eps=1,eps=x': { errorsPerSecond: 1 },
    'JSON {"cpu_utilization":0.1,"cpuUtilization":0.2}': { cpuUtilization: 0.2 }
  })
})

t.test('garbage and other forms are no report', async t => {
  const garbage = [
    '', ' ', ',', '=', ',,,', '=,=', 'TEXT', 'TEXT ', 'JSON', 'JSON ', 'JSON {', 'JSON {}', 'JSON []', 'JSON null', 'JSON 1', 'JSON "cpu_utilization"',
    'JSON [{"eps":1}]', 'JSON cpu_utilization=0.3', 'TEXT {"eps":1}', 'TEXTeps=1', 'XML <eps>1</eps>', 'BIN CQAAAAAAAOA/', 'CQAAAAAAAOA/', 'BIN eps=1',
    'cpu_utilization', 'TEXT cpu_utilization', 'TEXT =0.3', '\u0000', 'ÿ', 'TEXT eps==1', 'JSON {"eps":1}, JSON {"eps":2}'
  ]
  for (const value of garbage) t.equal(parseLoadReport(value), undefined, JSON.stringify(value))
})

t.test('names that every object has are only unknown ones', async t => {
  for (const name of ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'prototype', 'valueOf']) {
    parses(t, { [`TEXT ${name}=1`]: null, [`JSON {"${name}":1}`]: null, [`TEXT eps=1,${name}=2`]: { errorsPerSecond: 1 } })
  }
  parses(t, { 'JSON {"__proto__":{"eps":1,"polluted":1},"eps":2}': { errorsPerSecond: 2 }, 'JSON {"__proto__":{"eps":1}}': null })
  t.equal(({} as { polluted?: number }).polluted, undefined)
  t.strictSame(Object.keys(parseLoadReport('TEXT eps=1,__proto__=2') as object), Object.keys(nothing))
})

t.test('it never throws, and says only numbers that can be reckoned with', async () => {
  const name = fc.constantFrom('cpu_utilization', 'mem_utilization', 'application_utilization', 'rps_fractional', 'eps', 'cpuUtilization', '__proto__', 'foo', '')
  const number = fc.oneof(fc.double().map(String), fc.integer().map(String), fc.string(), fc.constantFrom('NaN', 'Infinity', '-1', '1e400'))
  const text = fc.array(fc.tuple(name, fc.constantFrom('=', ':', ' = ', ''), number).map(parts => parts.join(''))).map(pairs => pairs.join(','))
  const json = fc.oneof(fc.json(), fc.dictionary(name, fc.oneof(fc.double(), number, fc.jsonValue())).map(value => JSON.stringify(value)))
  const value = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.tuple(fc.constantFrom('TEXT ', 'JSON ', 'text ', ' TEXT\t', 'BIN ', ''), fc.oneof(text, json, fc.string())).map(parts => parts.join(''))
  )
  fc.assert(fc.property(value, value => {
    const report = parseLoadReport(value)
    if (report === undefined) return
    const numbers = Object.values(report)
    if (numbers.length !== 5 || !numbers.every(number => Number.isFinite(number) && number >= 0)) throw new Error(JSON.stringify(report))
  }), { numRuns: 2_000 })
})

t.test('what is told comes back as it was told, in both forms', async () => {
  const amount = fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }).map(Math.abs)
  fc.assert(fc.property(amount, amount, amount, amount, amount, (cpuUtilization, memoryUtilization, applicationUtilization, requestsPerSecond, errorsPerSecond) => {
    const told = { cpu_utilization: cpuUtilization, mem_utilization: memoryUtilization, application_utilization: applicationUtilization, rps_fractional: requestsPerSecond, eps: errorsPerSecond }
    const text = Object.entries(told).map(([name, value]) => `${name}=${value}`).join(', ')
    for (const value of [`TEXT ${text}`, `JSON ${JSON.stringify(told)}`]) {
      const report = parseLoadReport(value)
      if (JSON.stringify(report) !== JSON.stringify({ cpuUtilization, memoryUtilization, applicationUtilization, requestsPerSecond, errorsPerSecond })) throw new Error(`${value} → ${JSON.stringify(report)}`)
    }
  }), { numRuns: 500 })
})

t.test('a long field takes no longer than its length', async t => {
  t.equal(parseLoadReport(' '.repeat(100_000)), undefined)
  t.equal(parseLoadReport(`TEXT ${'a=1,'.repeat(50_000)}`), undefined)
  t.equal(parseLoadReport(`JSON ${'['.repeat(100_000)}`), undefined)
})
