import { Type, type Static } from '@sinclair/typebox'

const pem = (what: string, description: string, extra: object = {}) => Type.Optional(Type.Unsafe<string | Buffer>(Type.Union([
  Type.String({ minLength: 1, ...extra }),
  Type.Uint8Array(extra)
], {
  description,
  expected: `${what} as PEM text, a Buffer of it, or the path of a file`,
  signature: 'string | Buffer',
  ...extra
})))

/**
 * How connections to backends are secured. Material is PEM: text, a `Buffer`, or the path of a file, which is read again when it changes.
 * No defaults are filled in: what a backend leaves out is that of its pool.
 */
export const TlsOptionsSchema = Type.Object({
  ca: Type.Optional(Type.Unsafe<string | Buffer | (string | Buffer)[]>(Type.Union([
    Type.String({ minLength: 1 }),
    Type.Uint8Array(),
    Type.Array(Type.Union([Type.String({ minLength: 1 }), Type.Uint8Array()]), { minItems: 1 })
  ], {
    description: 'Certificates of the authorities that are trusted instead of those Node trusts: PEM text, `Buffer`s, or paths of files; one or an array. Default: those of Node.',
    expected: 'certificates as PEM text, a Buffer, the path of a file, or an array of these',
    signature: 'string | Buffer | (string | Buffer)[]'
  }))),
  cert: pem('a certificate', 'The certificate that is shown to backends which ask for one (mTLS), and the chain behind it: PEM text, a `Buffer`, or the path of a file. Wants a `key`.'),
  key: pem('a private key', 'The private key of `cert`: PEM text, a `Buffer`, or the path of a file.', { writeOnly: true }),
  passphrase: Type.Optional(Type.String({ description: 'What `key` is encrypted with.', writeOnly: true })),
  servername: Type.Optional(Type.String({
    minLength: 1,
    description: 'The name that is asked for (SNI, RFC 6066, 3) and that the certificate must bear. Default: the host of the backend\'s URL.'
  })),
  rejectUnauthorized: Type.Optional(Type.Boolean({
    description: 'Refuse backends whose certificate nobody trusted has vouched for, that has expired, or that bears another name. `false` lets anybody on the way read and change everything, and is warned of at start. Default: `true`.'
  })),
  minVersion: Type.Optional(Type.Union([Type.Literal('TLSv1'), Type.Literal('TLSv1.1'), Type.Literal('TLSv1.2'), Type.Literal('TLSv1.3')], {
    description: 'The oldest version that is spoken. Default: that of Node, TLS 1.2.',
    expected: "one of 'TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3'"
  })),
  alpnProtocols: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 255 }), {
    description: 'What is offered by ALPN (RFC 7301), most wanted first. Of `h2` and `http/1.1` only what `http2` allows is offered. An empty list offers nothing. Default: what `http2` says.'
  }))
}, {
  additionalProperties: false,
  title: 'TlsOptions',
  description: 'How connections to `https:` backends are secured, for all backends of a pool (`pool.tls`) or for one (`tls`), whose own settings come first, one by one. PEM in a file is read at the start, and again when it changes: new connections use what is new, old ones finish what they have.'
})

/** How connections to backends are secured. */
export type TlsOptions = Static<typeof TlsOptionsSchema>
