import { KindGuard, type TSchema } from '@sinclair/typebox'
import { Value, type ValueError } from '@sinclair/typebox/value'
import { inspect } from 'node:util'
import { proxyError, type ErrorCode } from './errors.ts'

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
    else if ('default' in property) filled[key] = structuredClone(property.default)
  }
  return filled
}

/** Of all that is wrong, the first; inside a union, what is wrong with the variant that was meant. */
function mostTelling (schema: TSchema, value: unknown, path = ''): ValueError {
  const all = [...Value.Errors(schema, value)]
  // A key that is unknown tells more than one that is missing: it is mostly the same, misspelt.
  const error = all.find(({ message }) => message === 'Unexpected property') ?? all[0]
  const at = path + error.path
  if (KindGuard.IsUnion(error.schema) && typeof error.value === 'object' && error.value !== null) {
    const meant = error.schema.anyOf.find(variant => KindGuard.IsObject(variant) && variant.additionalProperties === false)
    if (meant !== undefined && !Array.isArray(error.value)) return mostTelling(meant, error.value, at)
  }
  return { ...error, path: at }
}

function describe (error: ValueError, name: string): string {
  const path = name + error.path.replaceAll(/\/([^/]*)/g, (_, key: string) => /^\d+$/.test(key) ? `[${key}]` : `.${unescapePointer(key)}`)
  const parent = error.path.slice(0, error.path.lastIndexOf('/'))
  if (error.message === 'Unexpected property') {
    const key = unescapePointer(error.path.slice(parent.length + 1))
    const nearest = nearestKey(key, Object.keys(error.schema.properties as object))
    return `${path} is not an option${nearest === undefined ? '' : `; did you mean '${nearest}'?`}`
  }
  const value = error.value instanceof URL ? error.value.href : error.value
  const given = value === undefined ? 'nothing' : withoutPassword(inspect(value, { depth: 0, breakLength: Infinity, maxStringLength: 80 }))
  return `${path} must be ${expectation(error)}, and is ${given}`
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
