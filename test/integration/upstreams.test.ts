import t from 'tap'
import type { Test } from 'tap'
import type { FastifyRequest } from 'fastify'
import { startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

/** A backend that answers with its name. */
async function named (t: Test, name: string): Promise<string> {
  return (await rawBackend(t, () => ok(name))).url
}

/** The upstream that a request asks for in its query, in all the ways that one can be chosen. */
const byQuery = (request: FastifyRequest) => (request.query as { to: string }).to
const choices = {
  'a function': byQuery,
  'an async function': async (request: FastifyRequest) => {
    await new Promise(setImmediate)
    return byQuery(request)
  }
}

t.test('a route goes to its upstream by name, or to the default one', async t => {
  const gateway = await startGateway(t, {
    backends: [await named(t, 'default')],
    upstreams: { one: { backends: [await named(t, 'one')] }, two: { backends: [await named(t, 'two')] } },
    routes: [{ prefix: '/' }, { prefix: '/one', upstream: 'one' }, { prefix: '/two', upstream: 'two' }, { prefix: '/default', upstream: 'default' }]
  })
  for (const [path, body] of [['/', 'default'], ['/one/x', 'one'], ['/two/x', 'two'], ['/default/x', 'default']]) {
    t.equal((await gateway.app.inject(path)).body, body, path)
  }
})

for (const [kind, upstream] of Object.entries(choices)) {
  t.test(`${kind} chooses the upstream for each request of a route`, async t => {
    const gateway = await startGateway(t, {
      upstreams: { one: { backends: [await named(t, 'one')] }, two: { backends: [await named(t, 'two')] } },
      routes: [{ prefix: '/', upstream }]
    })
    for (const name of ['one', 'two', 'one']) t.equal((await gateway.app.inject(`/?to=${name}`)).body, name)
    const response = await gateway.app.inject('/?to=nosuch')
    t.equal(response.statusCode, 500)
    t.match(response.json(), { code: 'FST_ROCKSTAR_UNKNOWN_UPSTREAM', message: "No upstream is named 'nosuch'" })
  })

  t.test(`${kind} chooses the upstream of a call, with a reply and without`, async t => {
    const gateway = await startGateway(t, {
      upstreams: { one: { backends: [await named(t, 'one')] }, two: { backends: [await named(t, 'two')] } }
    }, {
      setup: app => {
        app.get('/reply', (request, reply) => app.proxy.forward(request, reply, { upstream }))
        app.get('/ignored', (request, reply) => { app.proxy.forward(request, reply, { upstream }) })
        app.get('/capture', async request => (await app.proxy.forward(request, undefined, { upstream })).text())
      }
    })
    for (const path of ['/reply', '/ignored', '/capture']) {
      for (const name of ['one', 'two']) t.equal((await gateway.app.inject(`${path}?to=${name}`)).body, name, path)
      const response = await gateway.app.inject(`${path}?to=nosuch`)
      t.equal(response.statusCode, 500, path)
      t.match(response.json(), { code: 'FST_ROCKSTAR_UNKNOWN_UPSTREAM' }, path)
    }
  })
}

t.test('a call goes to an upstream by name', async t => {
  const gateway = await startGateway(t, { upstreams: { one: { backends: [await named(t, 'one')] } } }, {
    setup: app => {
      app.get('/reply', (request, reply) => app.proxy.forward(request, reply, { upstream: 'one' }))
      app.get('/capture', async request => (await app.proxy.forward(request, undefined, { upstream: 'one' })).text())
      app.get('/own', (request, reply) => app.proxy.upstream('one').forward(request, reply))
      app.get('/own-capture', async request => (await app.proxy.upstream('one').forward(request)).text())
      app.get('/nosuch', (request, reply) => app.proxy.forward(request, reply, { upstream: 'nosuch' }))
    }
  })
  for (const path of ['/reply', '/capture', '/own', '/own-capture']) t.equal((await gateway.app.inject(path)).body, 'one', path)
  t.equal((await gateway.app.inject('/nosuch')).json().code, 'FST_ROCKSTAR_UNKNOWN_UPSTREAM')
  t.equal(await (await gateway.app.proxy.upstream('one').forwardHttp(new Request('http://gateway/'))).text(), 'one')
})

t.test('a function that fails answers with its error, once, and the next request is served', async t => {
  const failures: Record<string, (request: FastifyRequest) => string | Promise<string>> = {
    throws: () => { throw Object.assign(new Error('no idea'), { statusCode: 418 }) },
    rejects: async () => { throw Object.assign(new Error('no idea'), { statusCode: 418 }) },
    'rejects later': async () => {
      await new Promise(setImmediate)
      throw Object.assign(new Error('no idea'), { statusCode: 418 })
    }
  }
  for (const [how, upstream] of Object.entries(failures)) {
    let failing = true
    const choose = (request: FastifyRequest) => failing ? upstream(request) : 'one'
    const gateway = await startGateway(t, { upstreams: { one: { backends: [await named(t, 'one')] } }, routes: [{ prefix: '/route', upstream: choose }] }, {
      setup: app => {
        app.get('/reply', (request, reply) => app.proxy.forward(request, reply, { upstream: choose }))
        app.get('/capture', async request => (await app.proxy.forward(request, undefined, { upstream: choose })).text())
      }
    })
    for (const path of ['/route', '/reply', '/capture']) {
      failing = true
      const response = await gateway.app.inject(path)
      t.equal(response.statusCode, 418, `${path}, a function that ${how}`)
      t.equal(response.json().message, 'no idea', `${path}, a function that ${how}`)
      failing = false
      t.equal((await gateway.app.inject(path)).body, 'one', `${path} after a function that ${how}`)
    }
    t.strictSame(gateway.log.filter(line => /already|unhandled/i.test(line.msg)), [])
  }
})

t.test('a function that finds no name answers 500, whatever it returns', async t => {
  for (const nothing of [undefined, null, 5, {}, '', Promise.resolve(undefined), Promise.resolve(5)]) {
    const upstream = () => nothing as string
    const gateway = await startGateway(t, { backends: [await named(t, 'default')], routes: [{ prefix: '/', upstream }] })
    const response = await gateway.app.inject('/')
    t.equal(response.statusCode, 500, String(nothing))
    t.equal(response.json().code, 'FST_ROCKSTAR_UNKNOWN_UPSTREAM', String(nothing))
  }
})

t.test('onError hears of an upstream that cannot be found', async t => {
  for (const upstream of ['nosuch', () => 'nosuch', async () => 'nosuch', () => { throw new Error('no idea') }]) {
    const heard: string[] = []
    const gateway = await startGateway(t, {
      routes: [{
        prefix: '/',
        upstream,
        onError: (_request, reply, error) => {
          heard.push(error.message)
          reply.code(421).send('answered')
        }
      }]
    })
    const response = await gateway.app.inject('/')
    t.equal(heard.length, 1, String(upstream))
    t.equal(response.statusCode, 421, String(upstream))
    t.equal(response.body, 'answered', String(upstream))
  }
})

t.test('a client that goes while its upstream is looked for reaches no backend', async t => {
  const backend = await rawBackend(t, () => ok())
  let found = (_name: string): void => {}
  const gateway = await startGateway(t, {
    upstreams: { one: { backends: [backend.url] } },
    routes: [{ prefix: '/', upstream: () => new Promise<string>(resolve => { found = resolve }) }]
  })
  let asked = 0
  gateway.app.server.on('request', (_request, response) => response.on('close', () => { asked++ }))
  const client = await gateway.connect()
  const before = found
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => found !== before)
  client.close()
  await until(() => asked === 1)
  found('one')
  t.equal((await (await gateway.app.proxy.upstream('one').forwardHttp(new Request('http://gateway/marker'))).text()), 'ok')
  t.strictSame(backend.requests.map(request => request.startLine), ['GET /marker HTTP/1.1'])
  t.match(gateway.app.proxy.getMetrics().upstreams.one, { failedRequests: 0 })
})

t.test('a route may name an upstream that comes later, and one that was replaced', async t => {
  const gateway = await startGateway(t, { routes: [{ prefix: '/', upstream: 'late' }] })
  const { proxy } = gateway.app
  t.equal((await gateway.app.inject('/')).json().code, 'FST_ROCKSTAR_UNKNOWN_UPSTREAM')
  proxy.addUpstream('late', { backends: [await named(t, 'first')] })
  t.equal((await gateway.app.inject('/')).body, 'first')
  await proxy.removeUpstream('late')
  t.equal((await gateway.app.inject('/')).json().code, 'FST_ROCKSTAR_UNKNOWN_UPSTREAM')
  proxy.addUpstream('late', { backends: [await named(t, 'second')] })
  t.equal((await gateway.app.inject('/')).body, 'second')
})

t.test('an upstream that was removed without drain gives up what it has', async t => {
  const clock = new FakeClock()
  const backend = await rawBackend(t, () => {})
  const gateway = await startGateway(t, { clock, upstreams: { one: { backends: [backend.url] } }, routes: [{ prefix: '/', upstream: 'one' }] })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  await gateway.app.proxy.removeUpstream('one', { drain: false })
  const response = await client.response()
  t.equal(response.status, 503)
  t.match(JSON.parse(response.body), { code: 'FST_ROCKSTAR_ABORTED' })
  await until(() => backend.connections[0].closed || backend.connections[0].ended)
})

t.test('each upstream has its own policies', async t => {
  const clock = new FakeClock()
  const backend = await rawBackend(t, request => request.startLine.includes('/slow')
    ? undefined
    : ok(JSON.stringify({ host: request.values('host'), via: request.values('via'), for: request.values('x-forwarded-for'), forwarded: request.values('forwarded') })))
  const host = `127.0.0.1:${backend.port}`
  const backends = [backend.url]
  const gateway = await startGateway(t, {
    clock,
    backends,
    upstreams: {
      host: { backends, preserveHost: true },
      via: { backends, via: 'edge' },
      novia: { backends, via: false },
      plain: { backends, forwarded: false },
      half: { backends, forwarded: { standard: false } },
      slow: { backends, timeout: { headers: 100 } }
    },
    routes: [{ prefix: '/', upstream: request => (request.query as { to?: string }).to ?? 'default' }]
  })
  const ask = async (to: string) => (await gateway.app.inject({ url: `/?to=${to}`, headers: { host: 'client.example' } })).json()
  const standard = ['for=127.0.0.1;host=client.example;proto=http']
  t.strictSame(await ask('default'), { host: [host], via: ['1.1 rockstar-proxy'], for: ['127.0.0.1'], forwarded: standard })
  t.strictSame(await ask('host'), { host: ['client.example'], via: ['1.1 rockstar-proxy'], for: ['127.0.0.1'], forwarded: standard })
  t.strictSame(await ask('via'), { host: [host], via: ['1.1 edge'], for: ['127.0.0.1'], forwarded: standard })
  t.strictSame(await ask('novia'), { host: [host], via: [], for: ['127.0.0.1'], forwarded: standard })
  t.strictSame(await ask('plain'), { host: [host], via: ['1.1 rockstar-proxy'], for: [], forwarded: [] })
  t.strictSame(await ask('half'), { host: [host], via: ['1.1 rockstar-proxy'], for: ['127.0.0.1'], forwarded: [] })

  const client = await gateway.connect()
  client.send('GET /slow?to=slow HTTP/1.1\r\nHost: gateway\r\n\r\n')
  const patient = await gateway.connect()
  patient.send('GET /slow?to=default HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.filter(request => request.startLine.includes('/slow')).length === 2)
  clock.advance(1_000)
  t.equal((await client.response()).status, 504)
  t.equal(patient.received, '', 'the other upstream waits on')
})
