import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import { AdminOptionsSchema, type AdminOptions, type AdminPlugin, type AdminPluginOptions, type ResourceOptions } from '../../types/index.ts'
import { resolveOptions } from '../../lib/options.ts'
import backends from '../backends.ts'
import balancer from '../balancer.ts'
import breaker from '../breaker.ts'
import events from '../events.ts'
import explain from '../explain.ts'
import health from '../health.ts'
import metrics from '../metrics.ts'
import status from '../status.ts'
import { ORIGIN, type Origin } from './places.ts'
import { unknown } from './unknown.ts'

/** What stands behind each name in `admin.plugins`. */
const PLUGINS: Record<AdminPlugin, FastifyPluginAsync<ResourceOptions>> = { status, backends, balancer, breaker, health, metrics, explain, events } as Record<AdminPlugin, FastifyPluginAsync<ResourceOptions>>

/** Registers operators' routes as the option `admin` has it. */
export async function mountAdmin (app: FastifyInstance, admin: boolean | AdminOptions | undefined): Promise<void> {
  if (admin === undefined || admin === false) return
  const options = resolveOptions<AdminOptions>(AdminOptionsSchema, admin === true ? {} : admin, 'options.admin')
  await registerAll(app, options, { mounted: true, path: 'options.admin' }, options.prefix)
}

/** Registers the resources that are wanted, each with what is for it. @param prefix what is said of it, be it Fastify who has seen to it */
export async function registerAll (app: FastifyInstance, { plugins = [], metrics, events, ...options }: AdminPluginOptions, origin: Origin, prefix = ''): Promise<void> {
  const own: Partial<Record<AdminPlugin, object>> = { metrics, events }
  for (const name of new Set(plugins)) await app.register(PLUGINS[name], { ...options, ...own[name], [ORIGIN]: { ...origin, own: `${origin.path}.${name}` } } as ResourceOptions)
  // At the root there is all of the application.
  if (!/^\/*$/.test(prefix)) await app.register(unknown, { ...options, prefix: options.prefix?.replace(/\/+$/, ''), [ORIGIN]: origin } as ResourceOptions)
}
