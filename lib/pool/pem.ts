import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { proxyError } from '../errors.ts'

const BEGIN = '-----BEGIN'
const CERTIFICATES = /-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----[^-]+-----END (?:X509 |TRUSTED )?CERTIFICATE-----/g

/** Whether a value is the path of a file: text that is no PEM. */
export function isPath (value: string | Buffer): value is string {
  return typeof value === 'string' && !value.includes(BEGIN)
}

/** The text of PEM that may be in a file. Throws `INVALID_OPTIONS`. @param name of the option @param secret whether nothing of the value may be shown */
export function pemOf (value: string | Buffer, name: string, secret = false): string {
  if (!isPath(value)) return value.toString()
  try {
    return readFileSync(value, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    // A key that has lost its first line is no path to be shown.
    if (secret) throw refused(name, `the file of that name cannot be read (${code})`)
    throw refused(name, `'${value}' cannot be read (${code})`, error)
  }
}

/** Every certificate of a text. Throws `INVALID_OPTIONS` where there is none, or one that is none. */
export function certificatesOf (pem: string, name: string): X509Certificate[] {
  const blocks = pem.match(CERTIFICATES)
  if (blocks === null) throw refused(name, 'it holds no certificate')
  return blocks.map(block => {
    try {
      return new X509Certificate(block)
    } catch (error) {
      throw refused(name, `a certificate in it cannot be read (${reasonOf(error)})`)
    }
  })
}

/** Throws `INVALID_OPTIONS`. */
export function privateKeyOf (pem: string, passphrase: string | undefined, name: string): KeyObject {
  if (!pem.includes('PRIVATE KEY-----')) throw refused(name, 'it holds no private key')
  try {
    return createPrivateKey({ key: pem, passphrase })
  } catch (error) {
    if (passphrase === undefined && pem.includes('ENCRYPTED')) throw refused(name, 'it is encrypted, and there is no passphrase')
    throw refused(name, `the key cannot be read${passphrase === undefined ? '' : ' with this passphrase'} (${reasonOf(error)})`)
  }
}

export function refused (name: string, problem: string, cause?: unknown): Error {
  return proxyError('INVALID_OPTIONS', cause, `${name} must be PEM text, a Buffer of it, or the path of a file; ${problem}`)
}

/** OpenSSL's words, without what they are of. */
function reasonOf (error: unknown): string {
  const { code, reason, message } = error as NodeJS.ErrnoException & { reason?: string }
  return reason ?? code ?? message
}
