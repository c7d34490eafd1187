import { isIP, type Socket } from 'node:net'
import { buildConnector, Client, type Dispatcher } from 'undici'
import { failed, passed, type Check, type CheckResult } from './check.ts'

/** Bytes of an answer's body that are looked at. */
const LOOKED_AT = 65_536

/** Waits as long as the check does; looks at the certificate every time. */
const connect = buildConnector({ timeout: 0, maxCachedSessions: 0 })

/** What is asked, and what is a good answer. */
export interface HttpCheckOptions {
  readonly origin: string
  readonly servername: string | null
  readonly path: string
  readonly method: string
  readonly headers: Readonly<Record<string, string>>
  readonly expectedStatus: readonly (number | readonly [number, number])[]
  readonly expectedBody: string | RegExp | undefined
}

/** Asks by HTTP, on a connection of its own that is closed afterwards. */
export function httpCheck (options: HttpCheckOptions): Check {
  let socket: Socket | null = null
  const client = new Client(options.origin, {
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: (target, callback) => {
      // TLS knows no addresses for names (RFC 6066, 3). Typed as giving nothing, it gives the socket it connects.
      socket = (connect as (...args: Parameters<typeof connect>) => unknown)(isIP(target.servername ?? '') === 0 ? target : { ...target, servername: undefined }, callback) as Socket
    }
  })
  const cancel = () => {
    client.destroy().catch(() => {})
    // undici alone would go on connecting.
    socket?.destroy()
  }
  return { result: ask(client, options).catch(error => failed(error)).finally(cancel), cancel }
}

async function ask (client: Client, { servername, path, method, headers, expectedStatus, expectedBody }: HttpCheckOptions): Promise<CheckResult> {
  // The name that the certificate must bear is the backend's, whatever `Host` says.
  const request: Dispatcher.RequestOptions & { servername: string | null } = { path, method: method as 'GET', headers, servername }
  const { statusCode, body } = await client.request(request)
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
