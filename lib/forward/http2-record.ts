import type { OutgoingHttpHeaders } from 'node:http2'
import { MISTAKEN_LISTS } from '../pool/index.ts'
import { toRecord } from './header-record.ts'

/** Fields that may come but once, as Node has them: over HTTP/2 it refuses the whole head where one comes twice. */
const ONCE: ReadonlySet<string> = new Set(['access-control-allow-credentials', 'access-control-max-age', 'age', 'authorization', 'content-length', 'content-location', 'content-md5', 'content-range',
  'content-type', 'date', 'dnt', 'etag', 'expires', 'from', 'last-modified', 'location', 'max-forwards', 'proxy-authorization', 'referer', 'retry-after', 'tk', 'user-agent', 'x-content-type-options'])

/** Fields as Node's HTTP/2 takes them. What a backend has sent twice though it may come but once is sent on once, as Node's own clients read it: the first. */
export function toHttp2Record (headers: readonly string[]): OutgoingHttpHeaders {
  const record = toRecord(headers)
  for (const name in record) {
    const value = record[name]
    if (!Array.isArray(value)) continue
    if (MISTAKEN_LISTS.has(name)) record[name] = value.join(', ')
    else if (ONCE.has(name)) record[name] = value[0]
  }
  return record
}
