import { FormatRegistry, type TSchema } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'
import type { Test } from 'tap'
import type { AdminOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from './app.ts'

FormatRegistry.Set('date-time', text => !Number.isNaN(Date.parse(text)) && text.endsWith('Z'))

export type Method = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'OPTIONS'

/** Asks an operator's route from this machine. */
export type Ask = (method: Method, path: string, payload?: unknown, headers?: Record<string, string | undefined>, remoteAddress?: string) => Promise<LightMyRequestResponse>

/** Has every answer of a route checked against what the route says of it. */
export function checkAnswers (t: Test, app: FastifyInstance): void {
  app.addHook('onSend', async (request, reply, payload) => {
    const { method, url, schema } = request.routeOptions
    const responses = schema?.response as Record<string, TSchema> | undefined
    if (responses === undefined || typeof payload !== 'string' || !String(reply.getHeader('content-type')).startsWith('application/json')) return
    const { statusCode } = reply
    const expected = responses[statusCode] ?? responses[`${Math.floor(statusCode / 100)}xx`]
    if (expected === undefined) {
      t.fail(`${method} ${url} does not say that it answers ${statusCode}: ${payload}`)
      return
    }
    const [error] = Value.Errors(expected, JSON.parse(payload))
    if (error !== undefined) t.fail(`${method} ${url} ${statusCode}: ${error.path} ${error.message}, and is ${JSON.stringify(error.value)}`)
  })
}

/** Asks an app from this machine, unless said otherwise. */
export function askOf (app: FastifyInstance, prefix = '/proxy'): Ask {
  return (method, path, payload, headers = {}, remoteAddress = '127.0.0.1') => app.inject({
    method,
    url: prefix + path,
    ...(payload === undefined ? {} : { payload: typeof payload === 'string' ? payload : JSON.stringify(payload) }),
    headers: { host: 'localhost:8080', ...(payload === undefined ? {} : { 'content-type': 'application/json' }), ...headers } as Record<string, string>,
    remoteAddress
  })
}

export interface AdminRig extends Gateway {
  ask: Ask
  proxy: FastifyInstance['proxy']
}

/** A gateway with operators' routes, whose answers are all checked. */
export async function adminRig (t: Test, options: RockstarProxyOptions = {}, admin: AdminOptions | boolean = true, setup: GatewaySetup = {}): Promise<AdminRig> {
  const gateway = await startGateway(t, { ...options, admin }, {
    ...setup,
    before: async app => {
      checkAnswers(t, app)
      await setup.before?.(app)
    }
  })
  const prefix = (typeof admin === 'object' ? admin.prefix : undefined) ?? '/proxy'
  return { ...gateway, ask: askOf(gateway.app, prefix), proxy: gateway.app.proxy }
}

/** The lines of a log that tell of changes. */
export function changesIn ({ log }: Gateway): Record<string, unknown>[] {
  return log.filter(({ msg }) => msg === 'changed by an operator')
}
