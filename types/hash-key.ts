import { Type, type TProperties } from '@sinclair/typebox'
import { WHOLE_TOKEN } from './field-syntax.ts'
import type { SelectContext } from './load-balancer.ts'

/** What is hashed of a request: those with the same key go the same way. */
export type HashKey = 'ip' | 'path' | { header: string } | { cookie: string } | { query: string } | ((context: SelectContext) => string | undefined)

const name = (description: string) => Type.String({ pattern: WHOLE_TOKEN, description, expected: 'a name' })
const one = <Properties extends TProperties>(properties: Properties) => Type.Object(properties, { additionalProperties: false })

/** A key of a request. */
export const HashKeySchema = (description: string, options: object = {}) => Type.Unsafe<HashKey>(Type.Union([
  Type.Literal('ip'),
  Type.Literal('path'),
  one({ header: name('Name of a header.') }),
  one({ cookie: name('Name of a cookie.') }),
  one({ query: Type.String({ minLength: 1, description: 'Name of a query parameter.' }) }),
  Type.Function([], Type.Unknown())
], {
  description: `${description} \`'ip'\` is the client's address (by Fastify's \`trustProxy\`), \`'path'\` the path without its query; a function gets the \`SelectContext\`.`,
  expected: "'ip', 'path', { header }, { cookie }, { query } or a function",
  ...options
}))
