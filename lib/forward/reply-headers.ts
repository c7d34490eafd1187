import type { FastifyReply } from 'fastify'

/** Fields of which both the application's and the backend's count. */
const COMBINED = new Set(['set-cookie', 'vary', 'server-timing', 'proxy-status'])
/** Fields that frame the content, which is the backend's. */
const FRAMING = new Set(['content-length', 'transfer-encoding'])

/**
 * Joins the headers that the application has set on the reply to the backend's: its own win, cookies and lists of what has been seen on the way add up.
 * They are taken off the reply, so that each is written once.
 */
export function joinReplyHeaders (reply: FastifyReply, headers: string[]): string[] {
  const own = reply.getHeaders()
  let joined = headers
  for (const name in own) {
    const value = own[name]
    reply.removeHeader(name)
    if (value === undefined || FRAMING.has(name)) continue
    if (!COMBINED.has(name)) joined = without(joined, name)
    else if (joined === headers) joined = headers.slice()
    for (const item of Array.isArray(value) ? value : [value]) joined.push(name, String(item))
  }
  return joined
}

function without (headers: string[], unwanted: string): string[] {
  const kept: string[] = []
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i].toLowerCase() !== unwanted) kept.push(headers[i], headers[i + 1])
  }
  return kept
}
