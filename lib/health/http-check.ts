import type { Socket } from 'node:net'
import { Client, type Dispatcher } from 'undici'
import type { Connector, Protocol } from '../pool/index.ts'
import { failed, passed, type Check, type CheckResult } from './check.ts'

/** Bytes of an answer's body that are looked at. */
const LOOKED_AT = 65_536

/** What is asked, and what is a good answer. */
export interface HttpCheckOptions {
  readonly origin: string
  readonly path: string
  readonly method: string
  readonly headers: Readonly<Record<string, string>>
  readonly expectedStatus: readonly (number | readonly [number, number])[]
  readonly expectedBody: string | RegExp | undefined
}

/** Asks by HTTP, on a connection of its own that is closed afterwards. @param protocols what it may speak, most wanted first */
export function httpCheck (options: HttpCheckOptions, connector: Connector, protocols: readonly Protocol[]): Check {
  let socket: Socket | null = null
  const client = new Client(options.origin, {
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: (_, callback) => {
      socket = connector.connect(protocols, (error, connected) => {
        if (connected === null || error !== null) return callback(error as Error, null)
        // Without TLS nothing is agreed upon: what is wanted is known to be spoken. undici goes by the same property.
        if (!connector.secure && protocols[0] === 'h2' && protocols.length === 1) Object.assign(connected, { alpnProtocol: 'h2' })
        callback(null, connected)
      })
    }
  })
  const cancel = () => {
    client.destroy().catch(() => {})
    // undici alone would go on connecting.
    socket?.destroy()
  }
  return { result: ask(client, options).catch(error => failed(error)).finally(cancel), cancel }
}

/** Asks by HTTP, through what requests go through as well. */
export function dispatchedCheck (options: HttpCheckOptions, dispatcher: Dispatcher): Check {
  const controller = new AbortController()
  const cancel = () => controller.abort()
  return { result: ask(dispatcher, options, controller.signal).catch(error => failed(error)).finally(cancel), cancel }
}

async function ask (dispatcher: Dispatcher, { origin, path, method, headers, expectedStatus, expectedBody }: HttpCheckOptions, signal?: AbortSignal): Promise<CheckResult> {
  const { statusCode, body } = await dispatcher.request({ origin, path, method: method as 'GET', headers, signal })
  body.on('error', () => {})
  if (!isExpected(statusCode, expectedStatus)) return failed(`status ${statusCode}`, statusCode)
  if (expectedBody === undefined) return passed(statusCode)
  const text = await beginningOf(body)
  const found = typeof expectedBody === 'string' ? text.includes(expectedBody) : new RegExp(expectedBody.source, expectedBody.flags.replace(/[gy]/g, '')).test(text)
  return found ? passed(statusCode) : failed('the body is not what was expected', statusCode)
}

function isExpected (statusCode: number, expected: HttpCheckOptions['expectedStatus']): boolean {
  return expected.some(one => typeof one === 'number' ? statusCode === one : statusCode >= one[0] && statusCode <= one[1])
}

async function beginningOf (body: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of body) {
    chunks.push(chunk)
    length += chunk.length
    if (length >= LOOKED_AT) break
  }
  return Buffer.concat(chunks).subarray(0, LOOKED_AT).toString()
}
