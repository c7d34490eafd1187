import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'

/** A certificate and its key, as PEM and in files. */
export interface Identity {
  cert: string
  key: string
  certFile: string
  keyFile: string
}

/** What a certificate is to say. */
export interface Wanted {
  /** `DNS:name` or `IP:address`. */
  names?: string[]
  /** Its last day was yesterday. */
  expired?: boolean
  passphrase?: string
}

/** An authority that signs certificates for tests, with a folder of its own that goes with the test. */
export class Authority {
  readonly folder: string
  readonly cert: string
  readonly certFile: string
  #issued = 0

  constructor (t: Test, name = 'authority') {
    this.folder = mkdtempSync(join(tmpdir(), 'rockstar-proxy-certificates-'))
    t.teardown(() => rmSync(this.folder, { recursive: true, force: true }))
    this.certFile = join(this.folder, 'ca.pem')
    openssl('req', '-x509', ...NEW_KEY, '-nodes', '-days', '2', '-subj', `/CN=${name}`, '-keyout', join(this.folder, 'ca-key.pem'), '-out', this.certFile)
    this.cert = readFileSync(this.certFile, 'utf8')
    writeFileSync(join(this.folder, 'ca.cnf'), `
      [ca]
      default_ca = this
      [this]
      new_certs_dir = ${this.folder}
      database = ${join(this.folder, 'index')}
      rand_serial = yes
      default_md = sha256
      policy = any
      certificate = ${this.certFile}
      private_key = ${join(this.folder, 'ca-key.pem')}
      copy_extensions = copy
      unique_subject = no
      [any]
      commonName = supplied
    `)
    writeFileSync(join(this.folder, 'index'), '')
  }

  issue ({ names = ['DNS:localhost', 'IP:127.0.0.1', 'IP:::1'], expired = false, passphrase }: Wanted = {}): Identity {
    const base = join(this.folder, String(++this.#issued))
    const [certFile, keyFile] = [`${base}.pem`, `${base}-key.pem`]
    openssl('req', ...NEW_KEY, ...(passphrase === undefined ? ['-nodes'] : ['-passout', `pass:${passphrase}`]), '-subj', `/CN=${this.#issued}`, '-addext', `subjectAltName=${names.join(',')}`, '-keyout', keyFile, '-out', `${base}.csr`)
    const day = 86_400_000
    const [from, to] = expired ? [-2 * day, -day] : [-day, day]
    openssl('ca', '-batch', '-notext', '-config', join(this.folder, 'ca.cnf'), '-startdate', dateOf(from), '-enddate', dateOf(to), '-in', `${base}.csr`, '-out', certFile)
    return { cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8'), certFile, keyFile }
  }
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']

function openssl (...args: string[]): void {
  execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] })
}

/** In the form that openssl takes. */
function dateOf (fromNow: number): string {
  return `${new Date(Date.now() + fromNow).toISOString().replaceAll(/[-:T]|\.\d+/g, '')}`
}
