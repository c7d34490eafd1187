import { createSecureContext, type SecureContext } from 'node:tls'
import type { Clock, PoolSettings, TlsOptions } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { proxyError } from '../errors.ts'
import { certificatesOf, isPath, pemOf, privateKeyOf, refused } from './pem.ts'
import { WatchedFiles } from './watched-files.ts'

/** How connections to a backend are secured: its own settings over those of its pool, one by one. */
export function tlsOptionsOf (backend: Pick<Backend, 'tls'>, { tls }: Pick<PoolSettings, 'tls'>): TlsOptions {
  return { ...tls, ...backend.tls }
}

/** What is read of options, and changes with their files. */
interface Material {
  readonly ca: string[] | undefined
  readonly cert: string | undefined
  readonly key: string | undefined
}

/** What TLS connections are secured with: made of PEM, and made anew when the files it came from change. */
export class TlsMaterial {
  /** What new connections are to use. */
  context: SecureContext
  /** Paths of the files that it was read from. */
  readonly files: readonly string[]
  readonly #options: TlsOptions
  readonly #path: string
  #text: string
  #watched: WatchedFiles | null = null

  /** Throws `INVALID_OPTIONS`, naming `path` and what is wrong. */
  constructor (options: TlsOptions, path: string) {
    this.#options = options
    this.#path = path
    const material = readMaterial(options, path)
    this.context = contextOf(material, options, path)
    this.#text = JSON.stringify(material)
    const { ca = [], cert, key } = options
    this.files = [...new Set([...[ca].flat(), cert, key].filter(value => value !== undefined).filter(isPath))]
  }

  /** Follows the files. What is new but cannot be used changes nothing. */
  watch (clock: Clock, onRenewed: () => void, onFault: (error: Error) => void): void {
    if (this.files.length === 0) return
    this.#watched = new WatchedFiles(this.files, clock, () => {
      try {
        if (this.#renew()) onRenewed()
      } catch (error) {
        onFault(error as Error)
      }
    })
  }

  close (): void {
    this.#watched?.close()
    this.#watched = null
  }

  /** Reads it again; whether it is other than before. Throws `INVALID_OPTIONS`, and leaves all as it was. */
  #renew (): boolean {
    const material = readMaterial(this.#options, this.#path)
    const text = JSON.stringify(material)
    if (text === this.#text) return false
    this.context = contextOf(material, this.#options, this.#path)
    this.#text = text
    return true
  }
}

function readMaterial ({ ca, cert, key, passphrase }: TlsOptions, path: string): Material {
  if (cert !== undefined && key === undefined) throw refused(`${path}.key`, 'there is none for the certificate')
  if (key !== undefined && cert === undefined) throw refused(`${path}.cert`, 'there is none for the key')
  const material: Material = {
    ca: ca === undefined ? undefined : [ca].flat().map((one, i) => pemOf(one, Array.isArray(ca) ? `${path}.ca[${i}]` : `${path}.ca`)),
    cert: cert === undefined ? undefined : pemOf(cert, `${path}.cert`),
    key: key === undefined ? undefined : pemOf(key, `${path}.key`, true)
  }
  material.ca?.forEach((one, i) => certificatesOf(one, Array.isArray(ca) ? `${path}.ca[${i}]` : `${path}.ca`))
  if (material.cert !== undefined && material.key !== undefined) {
    const [own] = certificatesOf(material.cert, `${path}.cert`)
    if (!own.checkPrivateKey(privateKeyOf(material.key, passphrase, `${path}.key`))) throw refused(`${path}.key`, `it is not that of ${path}.cert`)
  }
  return material
}

function contextOf (material: Material, { passphrase, minVersion }: TlsOptions, path: string): SecureContext {
  try {
    return createSecureContext({ ...material, passphrase, minVersion })
  } catch (error) {
    throw proxyError('INVALID_OPTIONS', undefined, `${path} must be what a TLS connection can be made with, and OpenSSL says: ${(error as Error).message}`)
  }
}
