import { OptionalKind, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import t from 'tap'
import { documented, jsonForm } from '../../lib/json-schema.ts'
import { BackendOptionsSchema, BalancerSchema, BreakerOptionsSchema, HealthOptionsSchema } from '../../types/index.ts'

const call = Type.Function([], Type.Unknown())
const instance = Type.Object({ href: Type.String() })

t.test('what only code can give is left out', async t => {
  const form = jsonForm(Type.Object({
    text: Type.String(),
    either: Type.Optional(Type.Union([Type.String({ minLength: 2 }), instance], { description: 'words' })),
    call: Type.Optional(call),
    list: Type.Optional(Type.Array(Type.Union([Type.Integer(), call]))),
    calls: Type.Optional(Type.Array(call)),
    inner: Type.Optional(Type.Object({ call: Type.Optional(call), a: Type.Optional(Type.Boolean()) }, { additionalProperties: false }))
  }, { additionalProperties: false, title: 'X' }))
  t.strictSame(JSON.parse(JSON.stringify(form)), {
    additionalProperties: false,
    title: 'X',
    type: 'object',
    required: ['text'],
    properties: {
      text: { type: 'string' },
      either: { description: 'words', type: 'string', minLength: 2 },
      list: { type: 'array', items: { type: 'integer' } },
      inner: { additionalProperties: false, type: 'object', properties: { a: { type: 'boolean' } } }
    }
  })
  t.equal(form.properties.either[OptionalKind], 'Optional', 'what may be left out still may')
  t.ok(Value.Check(form, { text: 'x', list: [1] }))
  t.notOk(Value.Check(form, { text: 'x', either: { href: 'x' } }))
  t.throws(() => jsonForm(call), /nothing of this schema/)
  t.throws(() => jsonForm(Type.Union([call, instance])), /nothing of this schema/)
})

t.test('no function and no instance is left of what operators send', async t => {
  for (const schema of [BackendOptionsSchema, BalancerSchema, BreakerOptionsSchema, HealthOptionsSchema]) {
    t.notMatch(JSON.stringify(jsonForm(schema)), /"type":"(?:Function|Uint8Array)"/)
  }
  t.notOk(Value.Check(jsonForm(BalancerSchema), { type: 'x', select: 'y' }))
})

t.test('documents hold JSON Schema, and nothing of ours', async t => {
  t.strictSame(documented(Type.Object({
    expected: Type.String({ expected: 'a word', signature: 'x', examples: ['a'] }),
    list: Type.Array(Type.Union([Type.Literal('a', { expected: 'a' }), Type.Null()])),
    map: Type.Record(Type.String(), Type.String({ expected: 'x' }))
  })), {
    type: 'object',
    required: ['expected', 'list', 'map'],
    properties: {
      expected: { type: 'string', examples: ['a'] },
      list: { type: 'array', items: { anyOf: [{ const: 'a', type: 'string' }, { type: 'null' }] } },
      map: { type: 'object', patternProperties: { '^(.*)$': { type: 'string' } } }
    }
  })
})
