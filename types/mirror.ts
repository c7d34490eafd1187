import { Type, type Static } from '@sinclair/typebox'

/** Copies requests to another upstream. */
export const MirrorOptionsSchema = Type.Object({
  upstream: Type.String({ minLength: 1, description: 'Name of the upstream that gets the copies. Its answers are thrown away.' }),
  percent: Type.Optional(Type.Number({ minimum: 0, maximum: 100, default: 100, description: 'Requests in a hundred that are copied, by chance.' })),
  maxBodySize: Type.Optional(Type.Integer({ minimum: 0, default: 65_536, description: 'Bytes of a request body up to which it is copied; requests with a larger one are not.' })),
  maxInFlight: Type.Optional(Type.Integer({ minimum: 1, default: 100, description: 'Copies under way at once; requests beyond are not copied.' }))
}, {
  additionalProperties: false,
  title: 'MirrorOptions',
  description: 'Sends copies of requests to another upstream. What becomes of them never touches the client: no copy is waited for, tried again or told of in an error.'
})

export const MirrorSchema = Type.Union([Type.Literal(false), MirrorOptionsSchema], {
  default: false,
  description: 'Copies of requests to another upstream: options, or `false` for none.',
  expected: 'false or an object with an upstream'
})

/** Copies requests to another upstream. */
export type MirrorOptions = Static<typeof MirrorOptionsSchema>
