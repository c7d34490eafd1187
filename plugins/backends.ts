import type { FastifyReply, FastifyRequest } from 'fastify'
import { setImmediate } from 'node:timers/promises'
import { AllowedBackends } from '../lib/allowed-backends.ts'
import { addressOf } from '../lib/backend-address.ts'
import type { Backend } from '../lib/backend.ts'
import { proxyError } from '../lib/errors.ts'
import { resolveOptions } from '../lib/options.ts'
import type { UpstreamManager } from '../lib/upstream-manager.ts'
import { BackendParamsSchema, BackendsViewSchema, BackendViewSchema, DrainingViewSchema, UpstreamQuerySchema, type BackendChanges, type BackendOptions, type BackendView, type DrainBackendOptions, type DrainingView } from '../types/index.ts'
import { AddBackendSchema, changesTo, DrainBodySchema, fixedOf, loggedOf, PatchBackendSchema, PutBackendSchema, PutParamsSchema, RemoveQuerySchema } from './admin/backend-requests.ts'
import { resource } from './admin/resource.ts'
import { checkPreconditions, tag } from './admin/versions.ts'
import { backendView, backendViews, drainingView } from './admin/views.ts'

/** Milliseconds that a drain or a removal may take if nobody says how many. */
const DRAIN_TIMEOUT = 30_000
/** What Fastify routes if it is not told otherwise. */
const MAX_PARAM_LENGTH = 100

/** Lists, adds, changes, drains and removes backends. */
const backends = resource('backends', ({ app, options, path, upstreamOf, logChange }) => {
  const allowed = options.allowBackends === undefined ? null : new AllowedBackends(options.allowBackends, `${path}.allowBackends`)
  const { routerOptions, maxParamLength = MAX_PARAM_LENGTH } = app.initialConfig
  const longest = routerOptions?.maxParamLength ?? maxParamLength

  const found = (request: FastifyRequest): { upstream: UpstreamManager, backend: Backend } => {
    const upstream = upstreamOf(request)
    return { upstream, backend: upstream.getBackend(idOf(request)) }
  }
  /** The one that is to be changed, as it was when whoever changes it has seen it. */
  const changeable = (request: FastifyRequest) => {
    const { upstream, backend } = found(request)
    checkPreconditions(request, backend)
    refuseLeaving(upstream, backend)
    return { upstream, backend }
  }
  const shown = (reply: FastifyReply, upstream: UpstreamManager, backend: Backend): BackendView => {
    tag(reply, backend)
    return backendView(upstream, backend)
  }
  const add = (request: FastifyRequest, reply: FastifyReply, upstream: UpstreamManager, input: BackendOptions, id: string) => {
    if (id.length > longest) throw proxyError('INVALID_REQUEST', undefined, `body.id must be a string of at most ${longest} characters, as paths have room for no more (maxParamLength), and is '${id}'`)
    const backend = upstream.addBackend(input)
    allowed?.bind(backend)
    logChange(request, 'add backend', { upstream: upstream.name, backend: backend.id, url: backend.url.href })
    reply.code(201).header('location', `${listPathOf(request)}/${encodeURIComponent(id)}${upstream.name === 'default' ? '' : `?upstream=${encodeURIComponent(upstream.name)}`}`)
    return shown(reply, upstream, backend)
  }
  const change = (request: FastifyRequest, upstream: UpstreamManager, backend: Backend, changes: BackendChanges) => {
    if (Object.keys(changes).length === 0) return
    upstream.updateBackend(backend.id, changes)
    logChange(request, 'change backend', { upstream: upstream.name, backend: backend.id, changes: loggedOf(changes) })
  }
  /** Tells how far an end that was asked for has come. */
  const ending = async (request: FastifyRequest, reply: FastifyReply, upstream: UpstreamManager, backend: Backend, end: Promise<void>): Promise<DrainingView> => {
    end.catch(error => request.log.error({ err: error }, 'a backend could not finish what it had'))
    // One that has nothing to finish is done by then.
    await setImmediate()
    const listed = upstream.listBackends().includes(backend)
    const draining = backend.draining && listed
    if (listed) tag(reply, backend)
    reply.code(draining ? 202 : 200)
    return drainingView(upstream, backend, draining)
  }

  return [
    {
      method: 'GET',
      url: '/backends',
      summary: 'List the backends of an upstream',
      query: UpstreamQuerySchema,
      response: { 200: BackendsViewSchema },
      handler: async request => {
        const upstream = upstreamOf(request)
        const views = backendViews(upstream, upstream.listBackends())
        return { upstream: upstream.name, count: views.length, available: views.filter(({ available }) => available).length, backends: views }
      }
    },
    {
      method: 'POST',
      url: '/backends',
      summary: 'Add a backend',
      description: 'It takes requests at once. To add the same again changes nothing and answers 200; another of its id is refused with 409, and so is the same where it is not active any more.',
      query: UpstreamQuerySchema,
      body: AddBackendSchema,
      response: { 200: BackendViewSchema, 201: BackendViewSchema },
      handler: async (request, reply) => {
        const upstream = upstreamOf(request)
        const body = request.body as string | BackendOptions
        const input = typeof body === 'string' ? { url: body } : body
        const id = input.id ?? addressOf(input.url, 'body.url').id
        if (known(upstream, id) === undefined) await allowed?.check(input.url, lookupOf(upstream))
        const backend = known(upstream, id)
        if (backend === undefined) return add(request, reply, upstream, input, id)
        refuseLeaving(upstream, backend)
        if (fixedOf(backend, input) !== undefined || Object.keys(changesTo(backend, { isActive: true, ...input })).length > 0) throw proxyError('DUPLICATE_BACKEND', undefined, id, upstream.name)
        return shown(reply, upstream, backend)
      }
    },
    {
      method: 'GET',
      url: '/backends/:id',
      summary: 'See a backend',
      description: '`ETag` stands for the state of its options: send it back as `If-Match` to change nothing that somebody else has changed meanwhile.',
      params: BackendParamsSchema,
      query: UpstreamQuerySchema,
      response: { 200: BackendViewSchema },
      handler: async (request, reply) => {
        const { upstream, backend } = found(request)
        return shown(reply, upstream, backend)
      }
    },
    {
      method: 'PUT',
      url: '/backends/:id',
      summary: 'Add a backend, or change the one that is there',
      description: 'The same request twice is the same as once. What is left out is set to its default; what its connections are made by (`url`, `tls`, `http2`) cannot change. `If-None-Match: *` only adds.',
      params: PutParamsSchema,
      query: UpstreamQuerySchema,
      body: PutBackendSchema,
      response: { 200: BackendViewSchema, 201: BackendViewSchema },
      handler: async (request, reply) => {
        const upstream = upstreamOf(request)
        const id = idOf(request)
        const input = resolveOptions<BackendOptions>(PutBackendSchema, request.body, 'body', 'INVALID_REQUEST')
        if (input.id !== undefined && input.id !== id) throw proxyError('INVALID_REQUEST', undefined, `body.id must be left out or be that of the path, '${id}', and is '${input.id}'`)
        if (known(upstream, id) === undefined) await allowed?.check(input.url, lookupOf(upstream))
        const backend = known(upstream, id)
        checkPreconditions(request, backend)
        if (backend === undefined) return add(request, reply, upstream, { ...input, id }, id)
        refuseLeaving(upstream, backend)
        const fixed = fixedOf(backend, input)
        if (fixed !== undefined) throw proxyError('ADMIN_CONFLICT', undefined, `body.${fixed} must be what the backend '${id}' has: it cannot change while it is listed`)
        const { zone = null, healthCheck = {}, ...given } = input
        change(request, upstream, backend, changesTo(backend, { ...given, zone, healthCheck }))
        return shown(reply, upstream, backend)
      }
    },
    {
      method: 'PATCH',
      url: '/backends/:id',
      summary: 'Change a backend',
      description: 'From the next request on. `isActive: true` brings one back that is drained. With `If-Match` only the state that its `ETag` stands for is changed.',
      params: BackendParamsSchema,
      query: UpstreamQuerySchema,
      body: PatchBackendSchema,
      response: { 200: BackendViewSchema },
      handler: async (request, reply) => {
        const { upstream, backend } = changeable(request)
        change(request, upstream, backend, request.body as BackendChanges)
        return shown(reply, upstream, backend)
      }
    },
    {
      method: 'POST',
      url: '/backends/:id/drain',
      summary: 'Have a backend finish what it has, and take nothing new',
      description: 'It stays listed, inactive once it is done. To ask again with a shorter time shortens it; a longer one changes nothing. PATCH it with `isActive: true` to bring it back.',
      params: BackendParamsSchema,
      query: UpstreamQuerySchema,
      body: DrainBodySchema,
      response: { 200: DrainingViewSchema, 202: DrainingViewSchema },
      handler: async (request, reply) => {
        const { upstream, backend } = changeable(request)
        const { timeout = DRAIN_TIMEOUT } = request.body as DrainBackendOptions
        const end = upstream.drainBackend(backend.id, { timeout })
        logChange(request, 'drain backend', { upstream: upstream.name, backend: backend.id, timeout: heldTo(timeout, upstream, backend) })
        return await ending(request, reply, upstream, backend, end)
      }
    },
    {
      method: 'DELETE',
      url: '/backends/:id',
      summary: 'Remove a backend',
      description: 'What is in flight may finish; until then it is listed as draining. To ask again with a shorter time shortens it.',
      params: BackendParamsSchema,
      query: RemoveQuerySchema,
      response: { 200: DrainingViewSchema, 202: DrainingViewSchema },
      handler: async (request, reply) => {
        const { upstream, backend } = found(request)
        checkPreconditions(request, backend)
        const { drain = String(DRAIN_TIMEOUT) } = request.query as { drain?: string }
        const timeout = drain === 'false' ? 0 : Number(drain)
        const end = upstream.removeBackend(backend.id, { drain: { timeout } })
        logChange(request, 'remove backend', { upstream: upstream.name, backend: backend.id, timeout: heldTo(timeout, upstream, backend) })
        return await ending(request, reply, upstream, backend, end)
      }
    }
  ]
})

function idOf ({ params }: FastifyRequest): string {
  return (params as { id: string }).id
}

/** The path of the list, as whoever adds to it knows it: a prefix may have parameters. */
function listPathOf ({ originalUrl, method }: FastifyRequest): string {
  const path = originalUrl.replace(/^https?:\/\/[^/?#]*/i, '').replace(/[?#].*$/s, '').replace(/^\/+/, '/').replace(/\/$/, '')
  return method === 'POST' ? path : path.slice(0, path.lastIndexOf('/'))
}

/** Of the milliseconds that a drain may take those that it will: one that is under way already may end sooner. */
function heldTo (timeout: number, upstream: UpstreamManager, { drainsUntil }: Backend): number {
  return drainsUntil === null ? timeout : Math.min(timeout, Math.ceil(drainsUntil - upstream.state.clock.now()))
}

function known ({ state }: UpstreamManager, id: string): Backend | undefined {
  return state.known(id)
}

/** By what connections would resolve a name. */
function lookupOf ({ state: { dns } }: UpstreamManager) {
  return dns.enabled ? dns.lookup : undefined
}

/** Throws `FST_ROCKSTAR_ADMIN_CONFLICT` for one that is on its way out for good. */
function refuseLeaving ({ name, state }: UpstreamManager, backend: Backend): void {
  if (state.isRemoving(backend)) throw proxyError('ADMIN_CONFLICT', undefined, `The backend '${backend.id}' of upstream '${name}' is being removed`)
}

export default backends
export { backends, backends as 'module.exports' }
