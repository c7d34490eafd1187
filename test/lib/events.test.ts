import type { FastifyBaseLogger } from 'fastify'
import { channel, subscribe, unsubscribe } from 'node:diagnostics_channel'
import t from 'tap'
import { Backend } from '../../lib/backend.ts'
import { Events } from '../../lib/events.ts'
import type { BackendEvent, HealthEvent, PanicEvent, ProxyEventName, ProxyEvents } from '../../types/index.ts'

const backend = new Backend({ id: 'b1', url: 'http://10.1.2.3:8081/secret', metadata: { owner: 'me' } }, 0)
const base = { upstream: 'api', time: 123 }
const judged = { ...base, backend, cause: 'why', counts: { failures: 5 } }

/** One of each. */
const samples: { [Name in ProxyEventName]: ProxyEvents[Name][0] } = {
  'backend:added': { ...base, backend },
  'backend:draining': { ...base, backend },
  'backend:drained': { ...base, backend },
  'backend:removed': { ...base, backend },
  'backend:healthy': judged,
  'backend:unhealthy': judged,
  'backend:ejected': { ...judged, until: 456 },
  'backend:returned': judged,
  'circuit:open': { ...judged, from: 'closed', to: 'open' },
  'circuit:half-open': { ...judged, from: 'open', to: 'half-open' },
  'circuit:closed': { ...judged, from: 'half-open', to: 'closed' },
  'discovery:failed': { ...base, source: 'api.internal', cause: 'why' },
  'discovery:recovered': { ...base, source: 'api.internal', cause: '2 found' },
  'panic:on': { ...base, available: 1, active: 4 },
  'panic:off': { ...base, available: 2, active: 4 }
}
const NAMES = Object.keys(samples) as ProxyEventName[]
const WARNINGS: ProxyEventName[] = ['backend:unhealthy', 'backend:ejected', 'circuit:open', 'discovery:failed', 'panic:on']

interface Line {
  level: string
  fields: Record<string, unknown>
  text: string
}

function logger (): { log: FastifyBaseLogger, lines: Line[] } {
  const lines: Line[] = []
  const at = (level: string) => (fields: Record<string, unknown>, text: string) => { lines.push({ level, fields, text }) }
  const log = Object.fromEntries(['trace', 'debug', 'info', 'warn', 'error', 'fatal'].map(level => [level, at(level)]))
  return { log: log as unknown as FastifyBaseLogger, lines }
}

/** An upstream's events, and those of all upstreams, which have the log. */
function family () {
  const { log, lines } = logger()
  const all = new Events()
  all.log = log
  return { all, own: new Events(all), other: new Events(all), lines }
}

function tellAll (events: Events): void {
  for (const name of NAMES) events.tell(name, samples[name] as never)
}

/** Lets rejections be heard of. */
const settle = () => new Promise<void>(resolve => setImmediate(resolve))

t.test('there are fifteen events', t => {
  t.equal(NAMES.length, 15)
  t.end()
})

t.test('each is told once to its upstream and to all, as the same object, and to no other upstream', t => {
  const { all, own, other } = family()
  for (const name of NAMES) {
    const heard: [string, unknown][] = []
    for (const [who, events] of [['own', own], ['all', all], ['other', other]] as const) events.on(name, (event: unknown) => { heard.push([who, event]) })
    own.tell(name, samples[name] as never)
    t.strictSame(heard.map(([who]) => who), ['own', 'all'], name)
    for (const [, event] of heard) t.equal(event, samples[name])
  }
  t.end()
})

t.test('a listener hears only of what it asked for', t => {
  const { own } = family()
  for (const name of NAMES) {
    let heard = 0
    const listener = () => { heard++ }
    own.on(name, listener)
    tellAll(own)
    own.off(name, listener)
    t.equal(heard, 1, name)
  }
  t.end()
})

t.test('once is once, off is off, and listeners may come and go while they are called', t => {
  const { own } = family()
  const heard: string[] = []
  const name = 'circuit:open'
  const tell = () => own.tell(name, samples[name])
  own.once(name, () => { heard.push('once') })
  const late = () => { heard.push('late') }
  const leaving = () => {
    heard.push('leaving')
    own.off(name, leaving)
    own.on(name, late)
  }
  own.on(name, leaving)
  own.on(name, () => { heard.push('last') })
  tell()
  t.strictSame(heard.splice(0), ['once', 'leaving', 'last'])
  tell()
  t.strictSame(heard.splice(0), ['last', 'late'])
  own.once(name, () => { tell() })
  tell()
  t.strictSame(heard, ['last', 'late', 'last', 'late'], 'and one that has itself told of more hears of it no more')
  t.end()
})

t.test('a listener that throws or rejects is logged, and stops neither the others nor who tells', async t => {
  const { all, own, lines } = family()
  const thrown = new Error('thrown')
  const rejected = new Error('rejected')
  const heard: string[] = []
  for (const [who, events] of [['own', own], ['all', all]] as const) {
    events.on('backend:ejected', () => { throw thrown })
    events.on('backend:ejected', async () => { throw rejected })
    events.once('backend:ejected', () => { throw thrown })
    events.once('backend:ejected', () => Promise.reject(rejected))
    events.on('backend:ejected', () => { heard.push(who) })
  }
  own.tell('backend:ejected', samples['backend:ejected'])
  await settle()
  t.strictSame(heard, ['own', 'all'])
  const faults = lines.filter(({ level }) => level === 'error')
  t.strictSame(faults.filter(({ fields }) => fields.err === thrown).length, 4)
  t.strictSame(faults.filter(({ fields }) => fields.err === rejected).length, 4)
  for (const { fields, text } of faults) t.match({ fields, text }, { fields: { event: 'backend:ejected' }, text: 'a listener threw' })
  t.equal(lines.filter(({ level }) => level === 'warn').length, 1, 'and the event has its line')
})

t.test('before there is a log, what a listener throws is a warning of the process, whatever it throws', async t => {
  const warnings: Error[] = []
  const onWarning = (warning: Error) => { warnings.push(warning) }
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  const all = new Events()
  const own = new Events(all)
  for (const value of [new Error('thrown'), 'a text', undefined, null, 5, { code: 1 }]) {
    own.once('panic:on', () => { throw value })
    t.doesNotThrow(() => own.tell('panic:on', samples['panic:on']))
  }
  await settle()
  t.strictSame(warnings.map(({ message }) => message), ['thrown', 'a text', 'undefined', 'null', '5', '[object Object]'])
})

t.test('each is published once on its channel of node:diagnostics_channel', t => {
  const { own } = family()
  for (const name of NAMES) {
    const published: [unknown, string | symbol][] = []
    const subscriber = (message: unknown, channelName: string | symbol) => { published.push([message, channelName]) }
    for (const each of NAMES) subscribe(`rockstar-proxy:${each}`, subscriber)
    own.tell(name, samples[name] as never)
    for (const each of NAMES) unsubscribe(`rockstar-proxy:${each}`, subscriber)
    t.strictSame(published.length, 1, name)
    t.equal(published[0][0], samples[name])
    t.equal(published[0][1], `rockstar-proxy:${name}`)
  }
  t.end()
})

t.test('with nobody to hear, nothing is published, emitted or copied', t => {
  const all = new Events()
  const own = new Events(all)
  const channels = NAMES.map(name => channel(`rockstar-proxy:${name}`))
  const called: string[] = []
  for (const each of channels) each.publish = () => { called.push('publish') }
  for (const events of [all, own]) {
    events.emit = () => { called.push('emit'); return true }
    events.rawListeners = () => { called.push('rawListeners'); return [] }
  }
  tellAll(own)
  t.strictSame(called, [])
  t.strictSame(own.eventNames(), [])
  for (const each of channels) delete (each as { publish?: unknown }).publish
  t.end()
})

t.test('each has one line in the log: warn for bad news, info for good, by names', t => {
  const { own, lines } = family()
  const texts = new Set<string>()
  for (const name of NAMES) {
    own.tell(name, samples[name] as never)
    t.equal(lines.length, 1, name)
    const [{ level, fields, text }] = lines.splice(0)
    t.equal(level, WARNINGS.includes(name) ? 'warn' : 'info', name)
    const { time: _, ...event } = samples[name] as BackendEvent | HealthEvent | PanicEvent
    t.strictSame(fields, { ...event, backend: 'backend' in event ? 'b1' : undefined })
    t.notMatch(JSON.stringify({ fields, text }), /10\.1\.2\.3|secret|owner/)
    texts.add(text)
  }
  t.equal(texts.size, NAMES.length, 'each in words of its own')
  t.end()
})

t.test('without a log and without listeners nothing happens', t => {
  t.doesNotThrow(() => tellAll(new Events(new Events())))
  t.end()
})
