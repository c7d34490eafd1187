import type { FastifyRequest } from 'fastify'
import { tracingChannel } from 'node:diagnostics_channel'
import type { AccessLogOptions, AttemptReport, AttemptTrace, Backend, ExchangeSummary, ExchangeTrace, ProxyManager, RockstarProxyOptions, StageTimes } from 'rockstar-proxy'
import { expect, test } from 'tstyche'

test('options of telemetry', () => {
  expect<RockstarProxyOptions>().type.toBeAssignableFrom({ accessLog: 'info' as const, requestId: 'x-id', serverTiming: true, proxyStatus: 'edge' })
  expect<RockstarProxyOptions>().type.toBeAssignableFrom({ accessLog: { level: 'warn' as const, sample: 0.1 }, requestId: true, proxyStatus: true })
  expect<RockstarProxyOptions['accessLog']>().type.not.toBeAssignableFrom(true)
  expect<RockstarProxyOptions['accessLog']>().type.not.toBeAssignableFrom('loud')
  expect<AccessLogOptions>().type.toBe<{ level?: 'trace' | 'debug' | 'info' | 'warn' | 'error', sample?: number }>()
})

test('what the tracing channels tell', () => {
  tracingChannel<unknown, ExchangeTrace>('rockstar-proxy:exchange').asyncEnd.subscribe(message => {
    const { proxy, request, route, summary, isCopy } = message as ExchangeTrace
    expect(proxy).type.toBe<ProxyManager>()
    expect(request).type.toBe<FastifyRequest | undefined>()
    expect(route).type.toBe<string | undefined>()
    expect(isCopy).type.toBe<boolean>()
    expect(summary).type.toBe<ExchangeSummary | undefined>()
  })
  tracingChannel<unknown, AttemptTrace>('rockstar-proxy:attempt').start.subscribe(message => {
    const { exchange, backend, reason, headers, report, version } = message as AttemptTrace
    expect(exchange).type.toBe<ExchangeTrace>()
    expect(backend).type.toBe<Backend>()
    expect(reason).type.toBe<'first' | 'retry' | 'resend' | 'hedge'>()
    expect(headers).type.toBe<string[]>()
    expect(report).type.toBe<AttemptReport | undefined>()
    expect(version).type.toBe<'1.1' | '2' | undefined>()
  })
})

test('what has become of an exchange', () => {
  expect<ExchangeSummary['times']>().type.toBe<StageTimes>()
  expect<StageTimes['queue']>().type.toBe<number>()
  expect<StageTimes['wait']>().type.toBe<number | undefined>()
  expect<ExchangeSummary['backend']>().type.toBe<Backend | undefined>()
})
