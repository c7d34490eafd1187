import { asFieldValue } from '../field-syntax.ts'
import { reasonPhrase } from '../pool/index.ts'
import { latin1 } from './latin1.ts'

const PLAIN = /^[\t\x20-\x7e]*$/
const MINOR_VERSION = 'HTTP/1.'.length
const ZERO = 0x30

/**
 * The reason phrase in characters of one byte; undici reads it as UTF-8, which not all of them are.
 * @param head as it came, where that is known
 */
export function phraseOf (asRead: string, head: Buffer | null): string {
  if (PLAIN.test(asRead)) return asRead
  return asFieldValue(head === null ? '' : reasonPhrase(head))
}

/** Whether a head is HTTP/1.0 and has chunks, which it cannot: its connection is not to be used again. RFC 9112, 6.1. */
export function isFaulty (head: Buffer, headers: readonly Buffer[]): boolean {
  return head[MINOR_VERSION] === ZERO && headers.some((name, i) => i % 2 === 0 && latin1(name).toLowerCase() === 'transfer-encoding')
}
