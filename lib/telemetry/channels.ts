import { tracingChannel, type TracingChannel } from 'node:diagnostics_channel'
import type { AttemptTrace, ExchangeTrace } from '../../types/index.ts'

type Channel<Message extends object> = TracingChannel<unknown, Message> & { readonly hasSubscribers: boolean }

/** Each exchange, from its start to its end. */
export const exchangeChannel = tracingChannel('rockstar-proxy:exchange') as Channel<ExchangeTrace>
/** Each attempt of one. */
export const attemptChannel = tracingChannel('rockstar-proxy:attempt') as Channel<AttemptTrace>
