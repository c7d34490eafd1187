import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import type { FailurePercentageOptions, OutlierOptions, RockstarProxyOptions, SuccessRateOptions, UpstreamOptions } from 'rockstar-proxy'
import { describe, expect, test } from 'tstyche'

const app = Fastify()

/** Only callable with these options: fresh objects are checked for keys they should not have. */
declare const take: {
  outlier (options: OutlierOptions): void
  rate (options: SuccessRateOptions): void
  percentage (options: FailurePercentageOptions): void
  root (options: RockstarProxyOptions): void
  upstream (options: UpstreamOptions): void
}

describe('the options of outlier detection', () => {
  test('all are optional, and each has its type', () => {
    expect(take.outlier).type.toBeCallableWith({})
    expect(take.outlier).type.toBeCallableWith({
      consecutiveFailures: 5,
      splitLocalErrors: true,
      consecutiveLocalErrors: 5,
      successRate: { stdevFactor: 1.9, minimumHosts: 5, requestVolume: 100 },
      failurePercentage: { threshold: 85, minimumHosts: 5, requestVolume: 50 },
      interval: 10_000,
      baseEjectionTime: 30_000,
      maxEjectionTime: 300_000,
      maxEjectionPercent: 50
    })
    expect(take.outlier).type.toBeCallableWith({ successRate: false, failurePercentage: false })
    expect(take.outlier).type.not.toBeCallableWith({ successRate: true })
    expect(take.outlier).type.not.toBeCallableWith({ failurePercentage: 85 })
    expect(take.outlier).type.not.toBeCallableWith({ consecutiveFailures: '5' })
    expect(take.outlier).type.not.toBeCallableWith({ splitLocalErrors: 1 })
    expect(take.outlier).type.not.toBeCallableWith({ consecutiveFailure: 5 })
    expect(take.outlier).type.not.toBeCallableWith({ successRate: { threshold: 85 } })
  })

  test('its parts are types of their own', () => {
    expect(take.rate).type.toBeCallableWith({ stdevFactor: 1.9 })
    expect(take.rate).type.not.toBeCallableWith({ threshold: 85 })
    expect(take.percentage).type.toBeCallableWith({ threshold: 85 })
    expect(take.percentage).type.not.toBeCallableWith({ stdevFactor: 1.9 })
  })

  test('the whole may be switched on or off, at the root and in each upstream', () => {
    for (const outlier of [true, false, {}, { consecutiveFailures: 3 }]) {
      expect(take.root).type.toBeCallableWith({ outlier })
      expect(take.upstream).type.toBeCallableWith({ outlier })
    }
    expect(take.root).type.not.toBeCallableWith({ outlier: 5 })
    expect(take.upstream).type.not.toBeCallableWith({ outlier: null })
    app.register(rockstarProxy, { outlier: { maxEjectionPercent: 10 }, upstreams: { other: { outlier: false } } })
  })
})
