import type { FastifyInstance, FastifyPluginAsync, FastifyPluginCallback } from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { expect, test } from 'tstyche'

test('the default export is a Fastify plugin', () => {
  expect(rockstarProxy).type.toBeAssignableTo<FastifyPluginAsync<{ backends: string[] }> | FastifyPluginCallback<{ backends: string[] }>>()
})

test('registering it types app.proxy', () => {
  expect<FastifyInstance>().type.toHaveProperty('proxy')
})
