import type { FastifyRequest } from 'fastify'
import { proxyError } from '../lib/errors.ts'
import { MAX_FORWARDS_REACHED, type DryRun, type Route, type Settings } from '../lib/forward/index.ts'
import type { ProxyManager } from '../lib/proxy-manager.ts'
import { ExplainRequestSchema, ExplainViewSchema, type ExplainRequest, type ExplainView } from '../types/index.ts'
import { resource } from './admin/resource.ts'
import { dryMessage, dryRequest } from './dry-request.ts'
import { DryRouting, type Met } from './dry-routing.ts'
import { declaredBy, knownTo, noteExplain, ownerOf } from './known-routes.ts'
import { withoutSecrets } from './secret-fields.ts'

/** Tells what would become of a request. */
const explain = resource('explain', ({ app, proxy }) => {
  const known = knownTo(proxy, app)
  noteExplain(app, proxy, `${app.prefix.replace(/\/$/, '')}/explain`)
  // Once the app is ready there are no more routes.
  let routing: Promise<DryRouting> | undefined
  return [{
    method: 'POST',
    url: '/explain',
    summary: 'See what would become of a request',
    description: 'The dry run of a request: which route it meets, which upstream and backend it would go to and why, what would be sent, and what holds for it. Nothing is sent, no turn is taken and nothing is counted. No hook and no handler runs: functions that the options have get a request whose decorators (a session, a tenant, a user) have their first values, so that what they make of these may be otherwise for a real one: `assumed` names those that were looked at. Secrets that the proxy adds to the request are shown as `***`.',
    body: ExplainRequestSchema,
    response: { 200: ExplainViewSchema },
    changes: false,
    handler: async asking => {
      const about = asking.body as ExplainRequest
      checkUpstream(proxy, about.upstream)
      const raw = dryMessage(about, asking, known.app)
      const met = await (await (routing ??= DryRouting.of(known))).ask(raw)
      const assumed = new Set<string>()
      const request = dryRequest(raw, asking, known.app, met, assumed)
      const owner = met.route === undefined ? undefined : ownerOf(met.route)
      const isOthers = owner !== undefined && owner !== proxy
      const view = { ...blank(request), route: routeView(request, met, isOthers ? known.explains.get(owner) ?? '' : null) }
      if (met.error !== undefined) return { ...view, answer: answerView(met.error) }
      if (met.route === undefined && about.upstream === undefined) return { ...view, answer: NOT_FOUND }
      if (isOthers && about.upstream === undefined) return { ...view, why: whoElse(view.route) }
      const declared = met.route === undefined || isOthers ? undefined : declaredBy(met.route.handler)
      const run = await runView(proxy, request, declared?.route ?? null, about.upstream)
      return { ...view, ...run, assumed: [...assumed] }
    }
  }]
})

/** Throws `UNKNOWN_UPSTREAM`, as what the client has got wrong. */
function checkUpstream (proxy: ProxyManager, name: string | undefined): void {
  if (name === undefined || proxy.listUpstreams().some(upstream => upstream.name === name)) return
  throw Object.assign(proxyError('UNKNOWN_UPSTREAM', undefined, name), { statusCode: 404 })
}

const NOT_FOUND: ExplainView['answer'] = {
  statusCode: 404,
  code: null,
  message: 'No route is known for it: the not-found handler answers, unless there is one that was added before rockstar-proxy or outside of its scope',
  retryAfter: null,
  fallback: false
}

function blank ({ raw, ip }: FastifyRequest): ExplainView {
  return {
    request: { method: raw.method as string, url: raw.url as string, ip },
    route: null,
    upstream: null,
    balancer: null,
    chosen: null,
    because: null,
    why: null,
    assumed: [],
    match: null,
    panic: false,
    waits: false,
    groups: [],
    backends: [],
    sent: null,
    rules: null,
    answer: null
  }
}

/** @param other for a route of another registration, where that can be asked; empty for nowhere here */
function routeView ({ method }: FastifyRequest, { route }: Met, other: string | null): ExplainView['route'] {
  if (route === undefined) return null
  const declared = declaredBy(route.handler)
  const kind = other !== null ? 'other' : declared === undefined ? 'handler' : 'declared'
  const { prefix = null, rewritePrefix = null } = declared ?? {}
  return { kind, method, url: route.url, prefix, rewritePrefix, askAt: other === '' ? null : other }
}

function whoElse (route: ExplainView['route']): string {
  return `it is a route of another registration of rockstar-proxy, which has backends of its own: ask ${route?.askAt ?? 'its own explain, which is not on this server'}`
}

async function runView (proxy: ProxyManager, request: FastifyRequest, route: Route | null, upstream: string | undefined): Promise<Partial<ExplainView>> {
  let run: Awaited<ReturnType<ProxyManager['dryRun']>>
  try {
    run = await proxy.dryRun(request, route, upstream)
  } catch (error) {
    // The route's own choice of an upstream has failed.
    return { answer: answerView(error) }
  }
  const { explanation, sent, settings, waits, error } = run
  return {
    upstream: run.upstream,
    ...(explanation === null ? {} : explanationView(explanation)),
    waits,
    sent: sent === null ? null : { ...sent, url: `${explanation?.chosen?.url.origin ?? ''}${sent.path}`, headers: withoutSecrets(sent.headers, request.raw.rawHeaders) },
    rules: rulesView(run, settings),
    answer: error === undefined ? null : answerView(error, settings)
  }
}

function explanationView ({ balancer, chosen, because, why, match, panic, groups, backends }: NonNullable<DryRun['explanation']>): Partial<ExplainView> {
  return {
    balancer,
    chosen: chosen?.id ?? null,
    because: because ?? null,
    why,
    match: match ?? null,
    panic,
    groups: groups.map(group => ({ ...group, zone: group.zone ?? null })),
    backends: backends.map(backend => ({ ...backend, zone: backend.zone ?? null }))
  }
}

function rulesView ({ repeatable, hedgeDelay }: DryRun, { timeouts, retry, hedge, mirror, fallback }: Settings): ExplainView['rules'] {
  return {
    timeouts: { ...timeouts },
    repeatable,
    retry: retry === null
      ? null
      : { attempts: retry.attempts, perTryTimeout: retry.perTryTimeout, on: [...retry.options.on], statuses: [...retry.statuses], maxBodySize: retry.maxBodySize },
    hedge: hedge === null ? null : { percentile: hedge.percentile, minDelay: hedge.minDelay, maxExtra: hedge.maxExtra, delay: hedgeDelay },
    mirror: mirror === null ? null : { upstream: mirror.upstream, percent: mirror.percent },
    fallback: fallback === null ? null : fallback.upstream === undefined ? 'answer' : { upstream: fallback.upstream }
  }
}

function answerView (error: unknown, settings?: Settings): ExplainView['answer'] {
  if (error === MAX_FORWARDS_REACHED) return { statusCode: 200, code: null, message: 'Max-Forwards is 0: the proxy answers itself', retryAfter: null, fallback: false }
  const { statusCode = 500, code = null, message, headers } = error as Error & { statusCode?: number, code?: string, headers?: { 'retry-after'?: string } }
  const retryAfter = headers?.['retry-after']
  return { statusCode, code, message, retryAfter: retryAfter === undefined ? null : Number(retryAfter), fallback: settings?.fallback?.covers(error as Error) === true }
}

export default explain
export { explain, explain as 'module.exports' }
