import t from 'tap'
import { Pool } from 'undici'
import type { Backend, ConnectionPool, PoolStats } from '../../types/index.ts'
import { adminRig } from '../helpers/admin.ts'
import { httpBackend } from '../helpers/app.ts'
import { parseScrape } from '../helpers/prometheus.ts'

const sums = { total: 1, active: 0, idle: 1, pending: 0, connects: 1, connectErrors: 0, requests: 3, reuseRatio: 0.5 }

/** A pool of an application's, whose numbers are what the test says. */
function poolTelling (stats: () => PoolStats): ConnectionPool {
  const pools = new Map<Backend, Pool>()
  return {
    dispatcherFor (backend) {
      const pool = pools.get(backend) ?? new Pool(backend.url.origin)
      pools.set(backend, pool)
      return pool
    },
    stats,
    close: async () => { await Promise.all([...pools.values()].map(pool => pool.destroy())) }
  }
}

t.test('a pool that cannot tell its numbers takes nothing else with it, and that is said once', async t => {
  const { url } = await httpBackend(t, (_request, response) => response.end('ok'))
  const rig = await adminRig(t, {
    backends: [{ id: 'a', url }],
    routes: [{ prefix: '/api' }],
    pool: poolTelling(() => { throw new Error('boom') })
  })
  const { ask, proxy, log } = rig
  const check = async () => {
    const status = await ask('GET', '/status')
    t.equal(status.statusCode, 200)
    t.match(status.json(), { upstreams: [{ name: 'default', backends: { total: 1 }, connections: null }] })
    for (const path of ['/backends', '/backends/a']) {
      const { statusCode, body } = await ask('GET', path)
      t.equal(statusCode, 200)
      t.match(body, '"connections":null')
    }
    t.equal((await ask('PATCH', '/backends/a', { weight: 2 })).statusCode, 200)
    const { statusCode, body } = await ask('GET', '/metrics/prometheus')
    t.equal(statusCode, 200)
    const names = parseScrape(body).families
    t.ok(names.size > 10)
    t.notMatch(body, /rockstar_proxy_connects_total\{|undefined|NaN/)
  }
  const said = () => log.filter(({ msg }) => /pool does not tell/.test(msg))
  await check()
  await check()
  t.match(said(), [{ level: 40, upstream: 'default', err: { message: 'boom' } }])
  t.equal(said().length, 1)
  t.equal((await fetch(`${rig.url}/api/x`, { headers: { connection: 'close' } })).status, 200, 'and it serves')

  proxy.setConnectionPool(poolTelling(() => undefined as never))
  await check()
  t.equal(said().length, 2, 'another one is another matter')

  proxy.setConnectionPool(poolTelling(() => ({ ...sums }) as PoolStats))
  t.match((await ask('GET', '/status')).json(), { upstreams: [{ connections: sums }] })
  t.match((await ask('GET', '/backends/a')).body, '"connections":null', 'one that tells of no backend')
  t.equal((await ask('GET', '/metrics/prometheus')).statusCode, 200)
  t.equal(said().length, 2)
})

t.test('a backend may be called as what every object has', async t => {
  const { url } = await httpBackend(t, (_request, response) => response.end('ok'))
  const ids = ['constructor', 'toString', '__proto__', 'a']
  const { ask } = await adminRig(t, { backends: ids.map(id => ({ id, url })), pool: poolTelling(() => ({ ...sums, backends: { a: sums } })) })
  const { body } = await ask('GET', '/metrics/prometheus')
  t.notMatch(body, /undefined|NaN|function/)
  for (const id of ids) t.match(body, new RegExp(`rockstar_proxy_connects_total\\{[^}]*backend="${id}"\\} ${id === 'a' ? 1 : 0}\\n`), id)
  t.strictSame((await ask('GET', '/backends')).json<{ backends: { connections: unknown }[] }>().backends.map(({ connections }) => connections), [...Array(3).fill({ ...sums, total: 0, idle: 0, connects: 0, requests: 0, reuseRatio: 0 }), sums])
})
