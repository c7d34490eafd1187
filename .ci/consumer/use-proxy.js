import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import Fastify from 'fastify'

/** Everything that the package offers for import, except its package.json. */
export function entryPoints () {
  const manifest = new URL('node_modules/rockstar-proxy/package.json', import.meta.url)
  return Object.keys(JSON.parse(readFileSync(manifest, 'utf8')).exports)
    .filter((key) => !key.endsWith('.json'))
    .map((key) => key.replace(/^\./, 'rockstar-proxy'))
}

/** Starts a backend and a proxy before it, and sends one request through both. */
export async function use (rockstarProxy) {
  assert.equal(typeof rockstarProxy, 'function', 'what is imported is the plugin')

  const backend = createServer((request, response) => {
    response.setHeader('x-backend', 'yes')
    response.end(`${request.method} answered by the backend`)
  })
  await once(backend.listen(0, '127.0.0.1'), 'listening')

  const app = Fastify()
  try {
    await app.register(rockstarProxy, {
      backends: [`http://127.0.0.1:${backend.address().port}`],
      routes: [{ prefix: '/api' }]
    })
    const address = await app.listen({ port: 0, host: '127.0.0.1' })
    const response = await fetch(`${address}/api/hello`, { headers: { connection: 'close' } })
    assert.equal(response.status, 200)
    assert.equal(response.headers.get('x-backend'), 'yes')
    assert.equal(await response.text(), 'GET answered by the backend')
  } finally {
    await app.close()
    backend.closeAllConnections()
    backend.close()
  }
}
