/**
 * Writes docs/options.md from the schemas that check the options, and the tables of docs/metrics.md: what they say is what the code does.
 * The same schemas give the same page, byte for byte.
 */
import { KindGuard, OptionalKind, type TObject, type TSchema } from '@sinclair/typebox'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { inspect } from 'node:util'
import {
  AccessLogOptionsSchema, AdaptiveOptionsSchema, AdminOptionsSchema, AdminPluginOptionsSchema, AffinityOptionsSchema, BackendChangesSchema, BackoffOptionsSchema, BackendOptionsSchema, BALANCER_SCHEMAS, BreakerOptionsSchema, ConsecutiveRuleSchema, DiscoveryOptionsSchema, DnsOptionsSchema, EventsOptionsSchema, FailurePercentageOptionsSchema, FailureRateRuleSchema, FallbackResponseSchema, FallbackUpstreamSchema, ForwardedSchema, ForwardOptionsSchema, HealthCheckOverridesSchema, HealthOptionsSchema, HedgeOptionsSchema, LimitsOptionsSchema, MetricsOptionsSchema, MirrorOptionsSchema, OutlierOptionsSchema, PoolOptionsSchema, QueueOptionsSchema,
  ResourceOptionsSchema, RetryBudgetOptionsSchema, RetryOptionsSchema, RetryOverridesSchema, RockstarProxyOptionsSchema, RouteOptionsSchema, SlowRateRuleSchema, SlowStartOptionsSchema, SplitPartSchema, SuccessRateOptionsSchema, TimeoutOptionsSchema, TlsOptionsSchema, UpstreamOptionsSchema, WeightOptionsSchema
} from '../types/index.ts'
import { OpenTelemetryOptionsSchema } from '../types/opentelemetry.ts'
import { withMetricsTables } from './metrics-table.ts'

const forwarded = ForwardedSchema.anyOf.find(variant => KindGuard.IsObject(variant)) as TObject

/** In the order of the page: the plugin's first, then what stands in them, then those of routes and calls. */
const sections: TObject[] = [
  RockstarProxyOptionsSchema, UpstreamOptionsSchema, BackendOptionsSchema, BackendChangesSchema, ...BALANCER_SCHEMAS,
  WeightOptionsSchema, SlowStartOptionsSchema, AffinityOptionsSchema,
  BreakerOptionsSchema, ConsecutiveRuleSchema, FailureRateRuleSchema, SlowRateRuleSchema,
  HealthOptionsSchema, HealthCheckOverridesSchema, OutlierOptionsSchema, SuccessRateOptionsSchema, FailurePercentageOptionsSchema,
  RetryOptionsSchema, BackoffOptionsSchema, RetryBudgetOptionsSchema, RetryOverridesSchema, HedgeOptionsSchema, LimitsOptionsSchema, QueueOptionsSchema, AdaptiveOptionsSchema,
  FallbackResponseSchema, FallbackUpstreamSchema, MirrorOptionsSchema, TimeoutOptionsSchema,
  DnsOptionsSchema, DiscoveryOptionsSchema,
  PoolOptionsSchema, TlsOptionsSchema, forwarded, RouteOptionsSchema, SplitPartSchema, ForwardOptionsSchema,
  AccessLogOptionsSchema,
  AdminOptionsSchema, ResourceOptionsSchema, AdminPluginOptionsSchema, EventsOptionsSchema, MetricsOptionsSchema,
  OpenTelemetryOptionsSchema
]
const titles = new Set(sections.map(titleOf))

function titleOf (schema: TSchema): string {
  if (schema.title === undefined) throw new Error('a schema of the options reference has no title')
  return schema.title
}

function code (text: string): string {
  return `\`${text}\``
}

/** A name as code, linked where it has a section. */
function named (title: string): string {
  return titles.has(title) ? `[${code(title)}](#${title.toLowerCase()})` : code(title)
}

/** The type of an option in Markdown: code, links, and words between them. */
function typeOf (schema: TSchema): string {
  if (schema.signature !== undefined) return code(schema.signature)
  if (KindGuard.IsUnion(schema)) return [...new Set(schema.anyOf.map(typeOf))].join(' | ')
  if (KindGuard.IsArray(schema)) return `array of ${typeOf(schema.items)}`
  if (KindGuard.IsRecord(schema)) return `object of ${typeOf(Object.values(schema.patternProperties)[0] as TSchema)}`
  if (KindGuard.IsLiteral(schema)) return code(inspect(schema.const))
  if (KindGuard.IsFunction(schema)) return code('function')
  if (KindGuard.IsUnknown(schema)) return 'anything'
  if (KindGuard.IsObject(schema)) return schema.title === undefined ? inline(schema) : named(schema.title)
  if (typeof schema.type !== 'string') throw new Error(`a schema of the options reference has no type: ${inspect(schema)}`)
  return code(schema.type) + boundsOf(schema)
}

function boundsOf ({ minimum, maximum }: TSchema): string {
  if (minimum === undefined) return ''
  return maximum === undefined ? `, at least ${minimum}` : `, ${minimum} to ${maximum}`
}

/** A small object without a name of its own. */
function inline (schema: TObject): string {
  const fields = Object.entries(schema.properties).map(([name, property]) => `${name}: ${typeOf(property).replaceAll('`', '')}`)
  return fields.length === 0 ? code('object') : code(`{ ${fields.join(', ')} }`)
}

/** Whether leaving an object out is the same as giving an empty one. */
function mayBeEmpty (schema: TSchema): boolean {
  if (KindGuard.IsUnion(schema)) return schema.anyOf.some(mayBeEmpty)
  return KindGuard.IsObject(schema) && schema.additionalProperties === false && Object.values(schema.properties).every(isOptional)
}

function isOptional (schema: TSchema): boolean {
  return OptionalKind in schema
}

/** Splits a description that ends in `Default: ….` from its default. */
function describe (schema: TSchema, path: string): { text: string, worded: string | undefined } {
  if (schema.description === undefined) throw new Error(`${path} has no description`)
  const [, text, worded] = /^(.*?)(?: Default: (.+)\.)?$/s.exec(schema.description) as unknown as [string, string, string | undefined]
  return { text, worded }
}

function defaultOf (schema: TSchema, worded: string | undefined): string {
  if ('default' in schema) return code(inspect(schema.default, { compact: true, breakLength: Infinity, maxArrayLength: null }))
  if (!isOptional(schema)) return '**required**'
  if (worded !== undefined) return worded
  return mayBeEmpty(schema) ? code('{}') : ''
}

function row (cells: string[]): string {
  return `| ${cells.map(cell => cell.replaceAll('|', '\\|')).join(' | ')} |`.replaceAll(/ +\|/g, ' |')
}

function table (schema: TObject): string {
  const rows = Object.entries(schema.properties).map(([name, property]) => {
    const { text, worded } = describe(property, `${titleOf(schema)}.${name}`)
    return row([code(name), typeOf(property), defaultOf(property, worded), text])
  })
  return [row(['option', 'type', 'default', 'description']), row(['---', '---', '---', '---']), ...rows].join('\n')
}

/** The section that has described all options of this one already. */
function describedBy (schema: TObject): TObject | undefined {
  const before = sections.slice(0, sections.indexOf(schema))
  return before.find(other => Object.entries(schema.properties).every(([name, property]) => other.properties[name] === property))
}

function section (schema: TObject): string {
  const whole = describedBy(schema)
  const content = whole === undefined
    ? table(schema)
    : `Of ${named(titleOf(whole))}, with the same meaning: ${Object.keys(schema.properties).map(code).join(', ')}.`
  return `## ${titleOf(schema)}\n\n${describe(schema, titleOf(schema)).text}\n\n${content}\n`
}

const page = `<!-- Written by \`npm run docs\` from the schemas in types/. Do not edit. -->

# Options

Durations are numbers of milliseconds, sizes numbers of bytes. Options are checked when they are given: a wrong one
throws \`FST_ROCKSTAR_INVALID_OPTIONS\`, which names the path, the value and what was expected, and for an unknown key the nearest
known one. The objects given are never changed.

${sections.map(schema => `- ${named(titleOf(schema))}`).join('\n')}

${sections.map(section).join('\n')}`

writeFileSync(join(import.meta.dirname, 'options.md'), page)

const metrics = join(import.meta.dirname, 'metrics.md')
writeFileSync(metrics, withMetricsTables(readFileSync(metrics, 'utf8')))
