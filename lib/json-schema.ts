import { KindGuard, OptionalKind, Type, type TObject, type TSchema } from '@sinclair/typebox'

/** What our schemas say for our own messages, and JSON Schema has no word for. */
const OURS: ReadonlySet<string> = new Set(['expected', 'signature'])

/**
 * What of a schema of options can come as JSON: without functions and without instances (a URL, a RegExp, a balancer), which only code
 * can give. An open object stands for an instance.
 */
export function jsonForm (schema: TSchema): TSchema {
  const form = formOf(schema)
  if (form === null) throw new TypeError('nothing of this schema can come as JSON')
  return form
}

function formOf (schema: TSchema): TSchema | null {
  if (KindGuard.IsFunction(schema) || KindGuard.IsUint8Array(schema)) return null
  if (KindGuard.IsUnion(schema)) return unionOf(schema, schema.anyOf.map(formOf).filter(form => form !== null))
  if (KindGuard.IsArray(schema)) {
    const items = formOf(schema.items)
    return items === null ? null : { ...schema, items }
  }
  if (!KindGuard.IsObject(schema)) return schema
  if (schema.additionalProperties !== false) return null
  return objectOf(schema)
}

function unionOf (schema: TSchema, variants: TSchema[]): TSchema | null {
  if (variants.length === 0) return null
  // The words of the whole say what its one variant does not.
  const { anyOf: _, ...words } = schema
  return variants.length === 1 ? { ...words, ...variants[0], ...(schema[OptionalKind] === undefined ? {} : { [OptionalKind]: 'Optional' }) } : { ...schema, anyOf: variants }
}

function objectOf (schema: TObject): TSchema {
  const { properties, required: _, ...words } = schema
  const forms = Object.entries(properties).map(([name, property]) => [name, formOf(property)]).filter(([, form]) => form !== null)
  return Type.Object(Object.fromEntries(forms), words)
}

/** A schema as OpenAPI documents have it: plain JSON Schema, nothing of ours left. */
export function documented (schema: TSchema): TSchema {
  return plain(JSON.parse(JSON.stringify(schema)))
}

function plain (value: Record<string, unknown>): TSchema {
  const entries = Object.entries(value).filter(([key]) => !OURS.has(key)).map(([key, inner]) => {
    if (key === 'properties' || key === 'patternProperties') return [key, Object.fromEntries(Object.entries(inner as object).map(([name, schema]) => [name, plain(schema)]))]
    if (key === 'anyOf' || key === 'allOf' || key === 'oneOf') return [key, (inner as Record<string, unknown>[]).map(plain)]
    if (key === 'items') return [key, Array.isArray(inner) ? inner.map(plain) : plain(inner as Record<string, unknown>)]
    return [key, inner]
  })
  return Object.fromEntries(entries) as TSchema
}
