import { Type, type Static } from '@sinclair/typebox'
import { WHOLE_TOKEN } from './field-syntax.ts'

const secret = Type.String({ minLength: 16 })

/** How clients stay with the backend that has served them. */
export const AffinityOptionsSchema = Type.Object({
  secret: Type.Union([secret, Type.Array(secret, { minItems: 1 })], {
    description: 'Key that the cookie is signed with, or several: the first signs, all are accepted, so that keys can be changed. The same for all processes. At least 16 characters.',
    expected: 'a string of at least 16 characters, or an array of such',
    writeOnly: true
  }),
  cookie: Type.Optional(Type.String({
    pattern: WHOLE_TOKEN,
    default: 'rockstar-affinity',
    description: 'Name of the cookie.',
    expected: 'the name of a cookie'
  })),
  maxAge: Type.Optional(Type.Integer({
    minimum: 0,
    default: 0,
    description: 'Milliseconds that the cookie is good for; it is renewed after half of them. 0: as long as the browser runs.'
  })),
  path: Type.Optional(Type.String({ pattern: '^/[ -:<-~]*$', default: '/', description: '`Path` of the cookie.', expected: 'a path' })),
  domain: Type.Optional(Type.String({ pattern: '^[0-9A-Za-z.-]+$', description: '`Domain` of the cookie.', expected: 'a domain name' })),
  secure: Type.Optional(Type.Union([Type.Boolean(), Type.Literal('auto')], {
    default: 'auto',
    description: '`Secure`; `\'auto\'` sets it where the client came by HTTPS, by Fastify\'s `trustProxy`.',
    expected: 'a boolean or \'auto\''
  })),
  httpOnly: Type.Optional(Type.Boolean({ default: true, description: '`HttpOnly`: scripts in the browser do not see the cookie.' })),
  sameSite: Type.Optional(Type.Union([Type.Literal('strict'), Type.Literal('lax'), Type.Literal('none')], {
    default: 'lax',
    description: '`SameSite`. `\'none\'` asks for `secure`.',
    expected: '\'strict\', \'lax\' or \'none\''
  })),
  onUnavailable: Type.Optional(Type.Union([Type.Literal('rebalance'), Type.Literal('fail')], {
    default: 'rebalance',
    description: 'What happens to a client whose backend is not available: another is chosen and kept, or 503.',
    expected: '\'rebalance\' or \'fail\''
  }))
}, {
  additionalProperties: false,
  title: 'AffinityOptions',
  description: 'Clients stay with the backend that has served them, by a signed cookie that tells nothing of it. One that is forged or has expired is as none. A backend that is being removed keeps its clients until its drain timeout, and so for the whole of it.'
})

export const AffinitySchema = Type.Union([Type.Literal(false), AffinityOptionsSchema], {
  default: false,
  description: 'Let clients stay with the backend that has served them.',
  expected: 'false or an object { secret, cookie, … }',
  writeOnly: true
})

/** How clients stay with the backend that has served them. */
export type AffinityOptions = Static<typeof AffinityOptionsSchema>
