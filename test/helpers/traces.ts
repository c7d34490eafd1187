import { tracingChannel } from 'node:diagnostics_channel'
import type { AttemptTrace, ExchangeTrace } from '../../types/index.ts'

const STEPS = ['start', 'end', 'asyncStart', 'asyncEnd', 'error'] as const

/** Listens to the tracing channels: what each exchange and attempt has told, in order. */
export class Traces {
  readonly exchanges = new Map<ExchangeTrace, string>()
  readonly attempts = new Map<AttemptTrace, string>()
  readonly #stop: (() => void)[] = []

  constructor () {
    this.#listen('exchange', this.exchanges)
    this.#listen('attempt', this.attempts)
  }

  #listen<Message extends object> (name: string, told: Map<Message, string>): void {
    const channel = tracingChannel(`rockstar-proxy:${name}`)
    const subscribers = Object.fromEntries(STEPS.map(step => [step, (message: Message) => { told.set(message, `${told.get(message) ?? ''} ${step}`.trim()) }])) as unknown as Parameters<typeof channel.subscribe>[0]
    channel.subscribe(subscribers)
    this.#stop.push(() => channel.unsubscribe(subscribers))
  }

  stop (): void {
    for (const stop of this.#stop) stop()
  }

  /** What is wrong with what was told, when all is over. */
  faults (): string[] {
    const faults: string[] = []
    for (const [told, name] of [[this.exchanges, 'exchange'], [this.attempts, 'attempt']] as const) {
      for (const [{ error }, steps] of told as Map<{ error: unknown }, string>) {
        const wanted = error === undefined ? 'start end asyncStart asyncEnd' : 'start end error asyncStart asyncEnd'
        if (steps !== wanted) faults.push(`an ${name} tells ${steps}, and not ${wanted}`)
      }
    }
    for (const { report, exchange, error } of this.attempts.keys()) {
      if (report === undefined || report.result === 'pending') faults.push('an attempt has ended without a report')
      if (report?.outcome.error !== error) faults.push('an attempt tells of two errors')
      if (!this.exchanges.has(exchange)) faults.push('an attempt of an exchange that never began')
    }
    for (const { summary, error } of this.exchanges.keys()) {
      if (summary === undefined) {
        faults.push('an exchange has ended without a summary')
        continue
      }
      const { result, statusCode, time, times, attempts } = summary
      if (summary.error !== error) faults.push('an exchange tells of two errors')
      if (result === 'successful' && (error !== undefined || statusCode >= 500 || statusCode < 100)) faults.push(`a success has status ${statusCode} and ${String(error)}`)
      if (statusCode < 100 || statusCode > 599) faults.push(`status ${statusCode}`)
      const stages = Object.values(times)
      if (stages.some(taken => taken < 0)) faults.push(`a stage took less than no time: ${JSON.stringify(times)}`)
      if (stages.reduce((sum, taken) => sum + taken, 0) > time + 1e-6) faults.push(`stages took longer than all: ${JSON.stringify(times)} of ${time}`)
      if (attempts.some(({ result }) => result === 'pending')) faults.push('an exchange has ended before its attempts')
    }
    return faults
  }
}
