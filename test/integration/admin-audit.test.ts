import t from 'tap'
import { adminRig, askOf, changesIn } from '../helpers/admin.ts'
import type { LogLine } from '../helpers/app.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'
import { FakeClock } from '../helpers/clock.ts'

const NOWHERE = 'http://127.0.0.1:1'
const backends = [{ id: 'a', url: NOWHERE }]

t.test('who may be found out later', async t => {
  const rejections: unknown[] = []
  const onRejection = (reason: unknown) => { rejections.push(reason) }
  process.on('unhandledRejection', onRejection)
  t.teardown(() => process.off('unhandledRejection', onRejection))
  let tell = (_name: string) => {}
  const rig = await adminRig(t, { backends }, { who: () => new Promise<string>(resolve => { tell = resolve }) })
  t.equal((await rig.ask('PATCH', '/backends/a', { weight: 2 })).statusCode, 200, 'nobody waits for it')
  t.strictSame(changesIn(rig), [])
  tell('ann')
  await until(() => changesIn(rig).length === 1)
  t.match(changesIn(rig), [{ action: 'change backend', backend: 'a', changes: { weight: 2 }, who: 'ann', reqId: /./ }])
  const failing = await adminRig(t, { backends }, { who: async () => { throw new Error('who knows') } })
  t.equal((await failing.ask('PATCH', '/backends/a', { weight: 2 })).statusCode, 200)
  await until(() => changesIn(failing).length === 1)
  t.match(changesIn(failing), [{ action: 'change backend', who: '127.0.0.1', err: { message: 'who knows' } }])
  const nobody = await adminRig(t, { backends }, { who: (async () => undefined) as never })
  await nobody.ask('PATCH', '/backends/a', { weight: 2 })
  await until(() => changesIn(nobody).length === 1)
  t.match(changesIn(nobody), [{ who: '127.0.0.1' }])
  await new Promise(resolve => setImmediate(resolve))
  t.strictSame(rejections, [])
})

t.test('changes are logged at whatever level the app logs', async t => {
  for (const level of ['debug', 'warn', 'fatal', 'silent']) {
    const log: LogLine[] = []
    const { app } = await adminRig(t, { backends }, true, { fastify: { logger: { level, stream: { write: (line: string) => { log.push(JSON.parse(line)) } } } } })
    t.equal((await askOf(app)('PATCH', '/backends/a', { weight: 2 })).statusCode, 200)
    t.match(log.filter(({ msg }) => msg === 'changed by an operator'), [{ level: 30, action: 'change backend', who: '127.0.0.1' }], level)
  }
  const { app } = await adminRig(t, { backends }, true, { fastify: { logger: false } })
  t.equal((await askOf(app)('PATCH', '/backends/a', { weight: 2 })).statusCode, 200, 'no logger, no line')
})

t.test('of a balancer its options are logged, before and after', async t => {
  const rig = await adminRig(t, { backends, balancer: 'peak-ewma' })
  await rig.ask('PUT', '/balancer', { type: 'peak-ewma', decay: 5_000 })
  await rig.ask('PUT', '/balancer', { type: 'peak-ewma', decay: 5_000 })
  await rig.ask('PUT', '/balancer', '"p2c"')
  t.match(changesIn(rig), [
    { action: 'switch balancer', from: 'peak-ewma', to: 'peak-ewma', before: { decay: 10_000 }, after: { decay: 5_000 } },
    { action: 'switch balancer', from: 'peak-ewma', to: 'p2c', before: { decay: 5_000 }, after: {} }
  ])
  t.equal(changesIn(rig).length, 2, 'the same again is no change')
})

t.test('of a drain what is logged and answered is the time that holds', async t => {
  const clock = new FakeClock()
  let answer = () => {}
  const backend = await rawBackend(t, (_request, wire) => { answer = () => { wire.send(ok()) } })
  const rig = await adminRig(t, { clock, backends: [{ id: 'a', url: backend.url }, { id: 'idle', url: backend.url }], routes: [{ prefix: '/' }] })
  const client = await rig.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  const said: number[] = []
  for (const timeout of [60_000, 20_000, 90_000]) {
    said.push((await rig.ask('POST', '/backends/a/drain', { timeout })).json().remaining)
    clock.advance(1_000)
  }
  t.strictSame(said, [60_000, 20_000, 19_000], 'a shorter time shortens it, a longer one does not')
  t.equal((await rig.ask('DELETE', '/backends/a?drain=80000')).json().remaining, 18_000)
  t.equal((await rig.ask('POST', '/backends/idle/drain', { timeout: 7_000 })).json().remaining, 0)
  t.strictSame(changesIn(rig).map(({ action, backend, timeout }) => [action, backend, timeout]), [
    ['drain backend', 'a', 60_000], ['drain backend', 'a', 20_000], ['drain backend', 'a', 19_000], ['remove backend', 'a', 18_000], ['drain backend', 'idle', 7_000]
  ])
  answer()
  await client.response()
})
