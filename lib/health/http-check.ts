import { Client } from 'undici'
import { failed, passed, type Check, type CheckResult } from './check.ts'

/** Bytes of an answer's body that are looked at. */
const LOOKED_AT = 65_536

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
  const client = new Client(options.origin, { headersTimeout: 0, bodyTimeout: 0, connect: options.servername === null ? {} : { servername: options.servername } })
  const cancel = () => { client.destroy().catch(() => {}) }
  return { result: ask(client, options).catch(error => failed(error)).finally(cancel), cancel }
}

async function ask (client: Client, { path, method, headers, expectedStatus, expectedBody }: HttpCheckOptions): Promise<CheckResult> {
  const { statusCode, body } = await client.request({ path, method: method as 'GET', headers })
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
