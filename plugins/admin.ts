import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { resolveOptions } from '../lib/options.ts'
import { AdminPluginOptionsSchema, type AdminPluginOptions } from '../types/index.ts'
import { registerAll } from './admin/mount.ts'

/** What errors of options call them. */
const PATH = 'options of rockstar-proxy/admin'

/** All of the operators' resources, for an application that registers them itself, below `/proxy` or another prefix: on a port of their own, for one. */
const adminPlugin: FastifyPluginAsync<AdminPluginOptions> = async (app, given) => {
  const { prefix, ...options } = resolveOptions<AdminPluginOptions>(AdminPluginOptionsSchema, given, PATH)
  // One that was given Fastify has seen to.
  await registerAll(app, { ...options, prefix: given.prefix === undefined ? prefix : '' }, { mounted: false, path: PATH }, prefix)
}

const admin = fp(adminPlugin, { name: 'rockstar-proxy-admin', fastify: '5.x', encapsulate: true })
export default admin
export { admin, admin as 'module.exports' }
