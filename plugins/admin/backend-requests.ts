import { Type, type TObject, type TSchema } from '@sinclair/typebox'
import { isDeepStrictEqual } from 'node:util'
import type { Backend } from '../../lib/backend.ts'
import { jsonForm } from '../../lib/json-schema.ts'
import { BackendChangesSchema, BackendOptionsSchema, DrainBackendOptionsSchema, TlsOptionsSchema, UpstreamQuerySchema, type BackendChanges, type BackendOptions } from '../../types/index.ts'

/** Whole characters without control characters, and nothing that URLs would take for a step up. */
const ID = '^(?!\\.\\.?$)(?:[^\\u0000-\\u001f\\u007f\\ud800-\\udfff]|[\\ud800-\\udbff][\\udc00-\\udfff])+$'
const id = Type.String({
  minLength: 1,
  maxLength: 128,
  pattern: ID,
  description: 'Name of the backend, unique in its upstream. Default: the host and port of its URL; all of it for a Unix socket.',
  expected: "a string of 1 to 128 characters, without control characters, and neither '.' nor '..'",
  examples: ['backend-1']
})

/** A file of the proxy's machine is no client's to name. */
const pem = (description: string, more: object = {}) => Type.Optional(Type.String({ pattern: '-----BEGIN ', description: `${description} PEM text.`, expected: 'PEM text', ...more }))
const tls = Type.Optional(Type.Object({
  ...(jsonForm(TlsOptionsSchema) as TObject).properties,
  ca: pem('Certificates of the authorities that are trusted instead of those Node trusts.'),
  cert: pem('The certificate that is shown to the backend.'),
  key: pem('The private key of it.', { writeOnly: true })
}, { additionalProperties: false, title: 'TlsOptions', description: 'How its connections are secured. Never shown again.' }))

const { id: _, url: __, ...others } = (jsonForm(BackendOptionsSchema) as TObject).properties
const url = Type.String({
  minLength: 1,
  description: 'Where the backend listens: `http://` or `https://`, a host, a port and a base path; or `unix:/path.sock`. No credentials, query or fragment.',
  expected: 'an http:, https: or unix: URL',
  examples: ['http://10.0.0.1:8081']
})
const options = { ...others, url, tls }

/** A backend that is added: its options, or only its URL. */
export const AddBackendSchema = Type.Union([url, Type.Object({ id: Type.Optional(id), ...options }, { additionalProperties: false, title: 'AddBackend' })], {
  description: 'The options of a backend, or its URL alone.',
  expected: 'a URL string or an object with a url',
  examples: [{ id: 'backend-4', url: 'http://10.0.0.4:8081', weight: 5, metadata: { rack: 'r12' } }]
})

/** A backend as it is to be, whose id is in the path. */
export const PutBackendSchema = Type.Object({ id: Type.Optional(id), ...options }, {
  additionalProperties: false,
  title: 'PutBackend',
  description: 'A backend as it is to be. What is left out is as by default.',
  examples: [{ url: 'http://10.0.0.4:8081', weight: 5 }]
})

/** The id of one that may be added by it. */
export const PutParamsSchema = Type.Object({ id }, { title: 'PutParams' })

/** What may be changed. */
export const PatchBackendSchema: TSchema = {
  ...jsonForm(BackendChangesSchema),
  description: 'What is to be otherwise. What is left out stays as it is; `metadata` and `healthCheck` are replaced as a whole.',
  examples: [{ weight: 2, isActive: true }]
}

/** How long a drain may take. */
export const DrainBodySchema = Type.Object(DrainBackendOptionsSchema.properties, {
  additionalProperties: false,
  title: 'DrainBackend',
  description: 'How long it may take. Default: 30 s.',
  examples: [{ timeout: 60_000 }]
})

/** How long a removal may take. */
export const RemoveQuerySchema = Type.Object({
  ...UpstreamQuerySchema.properties,
  drain: Type.Optional(Type.String({
    pattern: '^(?:false|[0-9]{1,9})$',
    description: 'Milliseconds that what is in flight may take, or `false` to abort it at once. Default: 30000.',
    expected: 'a number of milliseconds or false',
    examples: ['60000']
  }))
}, { additionalProperties: false, title: 'RemoveQuery' })

/** What of a backend is otherwise than is wanted: only what is given is looked at, and `priority` for both of its names. */
export function changesTo (backend: Backend, { weight, priority, backup, zone, isActive, healthCheck, metadata }: BackendChanges): BackendChanges {
  const wanted = { weight, priority: priority ?? (backup === undefined ? undefined : Number(backup)), zone, isActive, healthCheck, metadata }
  const now = { weight: backend.weight, priority: backend.priority, zone: backend.zone ?? null, isActive: backend.isActive && !backend.draining, healthCheck: backend.healthCheck ?? {}, metadata: backend.metadata }
  return Object.fromEntries(Object.entries(wanted).filter(([name, value]) => value !== undefined && !isDeepStrictEqual(value, now[name as keyof typeof now])))
}

/** The first of what is given that a backend has otherwise and that cannot change while it is listed. */
export function fixedOf (backend: Backend, { url, http2, tls }: Omit<BackendOptions, 'id'>): 'url' | 'http2' | 'tls' | undefined {
  if (!backend.isAt(url)) return 'url'
  if (http2 !== undefined && http2 !== backend.http2) return 'http2'
  return tls !== undefined && !isDeepStrictEqual(tls, backend.tls === undefined ? undefined : { ...backend.tls }) ? 'tls' : undefined
}

/** Of changes, what a log may know: of metadata and checks, which may hold secrets, only what they are called. */
export function loggedOf ({ metadata, healthCheck, ...changes }: BackendChanges): object {
  return { ...changes, ...(metadata === undefined ? {} : { metadata: Object.keys(metadata) }), ...(healthCheck === undefined ? {} : { healthCheck: Object.keys(healthCheck) }) }
}
