import { KindGuard, type TObject, type TProperties, type TSchema } from '@sinclair/typebox'
import { Value, ValueErrorType, ValuePointer, type ValueError } from '@sinclair/typebox/value'
import { inspect } from 'node:util'
import { proxyError, type ErrorCode } from './errors.ts'

/** What TypeBox says of a key that a closed object does not know. */
const UNEXPECTED = 'Unexpected property'

/**
 * Checks a value against its schema and fills in the defaults, in a copy: the caller's objects are never changed,
 * and instances inside them (a balancer, a URL, a signal) are handed on as they are.
 * Throws `FST_ROCKSTAR_INVALID_OPTIONS` naming path, value and expectation, and the nearest key for one unknown.
 */
export function resolveOptions<T> (schema: TSchema, value: unknown, name: string, code: ErrorCode = 'INVALID_OPTIONS'): T {
  if (!Value.Check(schema, value)) {
    throw proxyError(code, undefined, describe(mostTelling(schema, value), name))
  }
  return withDefaults(schema, value) as T
}

function withDefaults (schema: TSchema, value: unknown): unknown {
  if (KindGuard.IsUnion(schema)) {
    const variant = schema.anyOf.find(candidate => Value.Check(candidate, value))
    return variant === undefined ? value : withDefaults(variant, value)
  }
  if (KindGuard.IsArray(schema)) return (value as unknown[]).map(item => withDefaults(schema.items, item))
  if (KindGuard.IsRecord(schema)) {
    const items = Object.values(schema.patternProperties)[0] as TSchema
    return Object.fromEntries(Object.entries(value as object).map(([key, item]) => [key, withDefaults(items, item)]))
  }
  // Only a closed object is one of ours to copy; an open one stands for an instance.
  if (!KindGuard.IsObject(schema) || schema.additionalProperties !== false) return value
  const filled: Record<string, unknown> = { ...value as object }
  for (const [key, property] of Object.entries(schema.properties)) {
    if (filled[key] !== undefined) filled[key] = withDefaults(property, filled[key])
    else if ('default' in property) filled[key] = withDefaults(property, structuredClone(property.default))
  }
  return filled
}

/** Of all that is wrong, the first; inside a union, what is wrong with the variant that was meant. */
function mostTelling (schema: TSchema, value: unknown, path = ''): ValueError {
  const all = [...Value.Errors(schema, value)].filter(error => !isInherited(error, value))
  // A key that is unknown tells more than one that is missing: it is mostly the same, misspelt.
  const error = all.find(({ message }) => message === UNEXPECTED) ?? all[0]
  const at = path + error.path
  const { value: given } = error
  if (!KindGuard.IsUnion(error.schema) || typeof given !== 'object' || given === null || Array.isArray(given)) return { ...error, path: at }
  const variants = error.schema.anyOf.filter(variant => KindGuard.IsObject(variant) && variant.additionalProperties === false) as TObject[]
  const meant = meantOf(variants, given)
  return meant === undefined ? astray(variants, given, { ...error, path: at }) : mostTelling(meant, given, at)
}

/** TypeBox checks what an instance inherits from its class, and then tells that it is missing. */
function isInherited ({ type, path }: ValueError, value: unknown): boolean {
  return type === ValueErrorType.ObjectRequiredProperty && ValuePointer.Get(value, path) !== undefined
}

/** The variant that an object is of: the one of its `type`, else the only one that knows all of its keys. */
function meantOf (variants: TObject[], given: object): TObject | undefined {
  if (variants.length === 1) return variants[0]
  if ('type' in given && given.type !== undefined) return variants.find(({ properties }) => properties.type?.const === given.type)
  const knowing = variants.filter(({ properties }) => Object.keys(given).every(key => Object.hasOwn(properties, key)))
  return knowing.length === 1 ? knowing[0] : undefined
}

/** What is wrong with an object that is of no variant: a key is misspelt, or the `type` by which they are told apart. */
function astray (variants: TObject[], given: { type?: unknown }, error: ValueError): ValueError {
  const properties: TProperties = Object.assign({}, ...variants.map(variant => variant.properties))
  const known = Object.keys(properties)
  const misspelt = 'type' in given ? undefined : Object.keys(given).find(key => !known.includes(key) && nearestKey(key, known) !== undefined)
  if (misspelt !== undefined) return { ...error, path: `${error.path}/${escapePointer(misspelt)}`, message: UNEXPECTED, schema: { ...error.schema, properties } }
  const types = variants.map(({ properties }) => properties.type?.const)
  if (types.length === 0 || types.includes(undefined)) return error
  const expected = `one of ${types.map(type => `'${type}'`).join(', ')}`
  return { ...error, path: `${error.path}/type`, value: given.type, schema: { ...error.schema, expected } }
}

function describe (error: ValueError, name: string): string {
  const path = name + error.path.replaceAll(/\/([^/]*)/g, (_, key: string) => /^\d+$/.test(key) ? `[${key}]` : `.${unescapePointer(key)}`)
  const parent = error.path.slice(0, error.path.lastIndexOf('/'))
  if (error.message === UNEXPECTED) {
    const key = unescapePointer(error.path.slice(parent.length + 1))
    const nearest = nearestKey(key, Object.keys(error.schema.properties as object))
    return `${path} is not an option${nearest === undefined ? '' : `; did you mean '${nearest}'?`}`
  }
  return `${path} must be ${expectation(error)}, and is ${shown(error)}`
}

/** What was given, as far as a log may know it. */
function shown ({ value, schema }: ValueError): string {
  if (value === undefined) return 'nothing'
  if (schema.writeOnly === true && typeof value !== 'boolean') return '***'
  return withoutPassword(inspect(value instanceof URL ? value.href : value, { depth: 0, breakLength: Infinity, maxStringLength: 80 }))
}

function expectation ({ schema, message }: ValueError): string {
  if (typeof schema.expected === 'string') return schema.expected
  const bounds: string[] = []
  if (schema.minimum !== undefined) bounds.push(`of at least ${schema.minimum}`)
  if (schema.maximum !== undefined) bounds.push(`of at most ${schema.maximum}`)
  if (schema.minLength !== undefined) bounds.push(`of at least ${schema.minLength} characters`)
  if (schema.maxLength !== undefined) bounds.push(`of at most ${schema.maxLength} characters`)
  if (schema.minItems !== undefined) bounds.push(`of at least ${schema.minItems} item`)
  if (schema.pattern !== undefined) bounds.push(`matching ${schema.pattern}`)
  if (typeof schema.type !== 'string') return message.toLowerCase().replace(/^expected /, '')
  const article = /^[aeiou]/.test(schema.type) ? 'an' : 'a'
  return [`${article} ${schema.type}`, bounds.join(' and ')].filter(Boolean).join(' ')
}

/** A text that may hold URLs, for people, without what stands before an `@` in them. */
export function withoutPassword (text: string): string {
  return text.replaceAll(/[^\s'"`[\],]*@/g, '***@')
}

function escapePointer (key: string): string {
  return key.replaceAll('~', '~0').replaceAll('/', '~1')
}

function unescapePointer (key: string): string {
  return key.replaceAll('~1', '/').replaceAll('~0', '~')
}

/** The key closest to a misspelt one, unless it is too far to be meant. */
function nearestKey (wrong: string, keys: string[]): string | undefined {
  let best: string | undefined
  let least = Math.max(2, Math.ceil(wrong.length / 3)) + 1
  for (const key of keys) {
    const distance = editDistance(wrong.toLowerCase(), key.toLowerCase())
    if (distance < least) {
      least = distance
      best = key
    }
  }
  return best
}

/** Levenshtein's distance: insertions, deletions and substitutions between two words. */
function editDistance (a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1))
    }
    row = next
  }
  return row[b.length]
}
