import { Type, type Static } from '@sinclair/typebox'
import { HashKeySchema } from './hash-key.ts'

const scalar = Type.Union([Type.String(), Type.Number(), Type.Boolean()])

/** What the metadata of a backend must say. */
export const MatchSchema = Type.Record(Type.String({ minLength: 1 }), Type.Union([scalar, Type.Array(scalar, { minItems: 1 })], {
  expected: 'a string, a number, a boolean, or an array of them'
}), {
  expected: 'an object of strings, numbers, booleans, or arrays of them'
})

/** The sign of a request by which it belongs to a part. */
export const WhenSchema = Type.Union([
  Type.Object({
    header: Type.String({ minLength: 1, description: 'Name of a header.' }),
    value: Type.Optional(Type.String({ description: 'What it must say; left out, anything but nothing.' }))
  }, { additionalProperties: false }),
  Type.Object({
    cookie: Type.String({ minLength: 1, description: 'Name of a cookie.' }),
    value: Type.Optional(Type.String({ description: 'What it must say; left out, anything but nothing.' }))
  }, { additionalProperties: false })
], {
  description: 'A header or cookie by which a request is for this part, whatever the weights.',
  expected: 'an object { header, value } or { cookie, value }'
})

/** One part of a split. */
export const SplitPartSchema = Type.Object({
  match: Type.Unsafe<Match>({ ...MatchSchema, description: 'What the metadata of its backends says.' }),
  weight: Type.Optional(Type.Number({
    minimum: 0,
    description: 'Share of the requests relative to the other parts. Default: 1, or 0 where there is a `when`.'
  })),
  when: Type.Optional(WhenSchema)
}, { additionalProperties: false, title: 'SplitPart', description: 'One part of a `split`.' })

/** What a route or a call may ask of backends. */
export const subsetOptions = {
  match: Type.Optional(Type.Unsafe<Match>({
    ...MatchSchema,
    description: 'Only backends whose metadata says all of this, such as `{ version: \'v2\' }`; of an array, any.'
  })),
  split: Type.Optional(Type.Array(SplitPartSchema, {
    minItems: 1,
    description: 'Parts that requests are split among, such as `[{ match: { version: \'v1\' }, weight: 95 }, { match: { version: \'v2\' }, weight: 5 }]`: by the first `when` that fits, else by weight. Within `match` where there is one too.'
  })),
  splitKey: Type.Optional(HashKeySchema('What a split by weight goes by: requests with the same key are for the same part, and moving a weight moves no more of them than it must. Left out, chance decides for each request.'))
}

/** What the metadata of a backend must say: all of it; of an array, any. */
export type Match = Readonly<Record<string, string | number | boolean | readonly (string | number | boolean)[]>>
/** One part of a split. */
export type SplitPart = Static<typeof SplitPartSchema>
/** Whether any backend will do where none matches. */
export type SubsetFallback = 'any' | 'none'
