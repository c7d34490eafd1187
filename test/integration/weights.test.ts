import t from 'tap'
import type { Test } from 'tap'
import type { BackendOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

/** A gateway in front of backends of these weights, called a, b, c …, each answering with its name. */
async function gatewayOf (t: Test, given: (number | Partial<BackendOptions>)[], more: RockstarProxyOptions = {}): Promise<Gateway> {
  const backends = await Promise.all(given.map(async (options, i) => {
    const id = 'abcdefgh'[i]
    const { url } = await rawBackend(t, () => ok(id))
    return { id, url, ...typeof options === 'number' ? { weight: options } : options }
  }))
  return await startGateway(t, { backends, routes: [{ prefix: '/' }], ...more })
}

/** Who answers the next requests, sent one after the other. */
async function turns (gateway: Gateway, count: number): Promise<string> {
  let answers = ''
  for (let i = 0; i < count; i++) {
    const response = await gateway.app.inject('/')
    answers += response.statusCode === 200 ? response.body : `[${response.statusCode}]`
  }
  return answers
}

t.test('equal weights take turns', async t => {
  t.equal(await turns(await gatewayOf(t, [1, 1, 1]), 7), 'abcabca')
  t.equal(await turns(await gatewayOf(t, [{}, {}]), 4), 'abab', 'which is what no weights are')
})

t.test('5:1:1 gives a a b a c a a, again and again', async t => {
  t.equal(await turns(await gatewayOf(t, [5, 1, 1]), 21), 'aabacaa'.repeat(3))
})

t.test('the turns hold for requests that come at once', async t => {
  const gateway = await gatewayOf(t, [5, 1, 1])
  const answers = await Promise.all(Array.from({ length: 70 }, () => gateway.app.inject('/').then(response => response.body)))
  const counts = (id: string) => answers.filter(answer => answer === id).length
  t.strictSame([counts('a'), counts('b'), counts('c')], [50, 10, 10])
})

t.test('one backend takes all', async t => {
  t.equal(await turns(await gatewayOf(t, [3]), 4), 'aaaa')
})

t.test('weight 0 takes nothing, and is not the same as gone', async t => {
  const gateway = await gatewayOf(t, [1, 0, 1])
  t.equal(await turns(gateway, 6), 'acacac')
  t.equal(gateway.app.proxy.listBackends().length, 3)
  gateway.app.proxy.updateBackend('b', { weight: 1 })
  t.match(await turns(gateway, 6), /^(?=.*a.*a)(?=.*b.*b)(?=.*c.*c)/)
})

t.test('where all have weight 0 there is nobody', async t => {
  t.equal(await turns(await gatewayOf(t, [0, 0]), 1), '[503]')
})

t.test('an inactive one takes nothing, whatever its weight is', async t => {
  const gateway = await gatewayOf(t, [{ weight: 9, isActive: false }, 1])
  t.equal(await turns(gateway, 3), 'bbb')
  gateway.app.proxy.updateBackend('a', { isActive: true })
  const answers = await turns(gateway, 10)
  t.equal([...answers].filter(answer => answer === 'a').length, 9)
})

t.test('weights may change while requests are served', async t => {
  const gateway = await gatewayOf(t, [1, 1])
  t.equal(await turns(gateway, 4), 'abab')
  gateway.app.proxy.updateBackend('a', { weight: 3 })
  t.equal(await turns(gateway, 8), 'aabaaaba')
  gateway.app.proxy.updateBackend('b', { weight: 3 })
  const equal = await turns(gateway, 6)
  t.match(equal, /^(?:ab)+$|^(?:ba)+$/)
  gateway.app.proxy.updateBackend('b', { weight: 0 })
  t.equal(await turns(gateway, 3), 'aaa')
})

t.test('a change from one extreme to another floods nobody', async t => {
  const gateway = await gatewayOf(t, [60, 1])
  await turns(gateway, 30)
  gateway.app.proxy.updateBackend('a', { weight: 2 })
  const answers = await turns(gateway, 30)
  const longest = Math.max(...(answers.match(/(.)\1*/g) as string[]).map(run => run.length))
  t.ok(longest <= 3, answers)
})

t.test('a backend that comes takes its share at once, one that goes leaves its share to the others', async t => {
  const gateway = await gatewayOf(t, [1, 1])
  const { url } = await rawBackend(t, () => ok('c'))
  await turns(gateway, 3)
  gateway.app.proxy.addBackend({ id: 'c', url, weight: 2 })
  const with3 = await turns(gateway, 8)
  t.strictSame(['a', 'b', 'c'].map(id => with3.split(id).length - 1), [2, 2, 4])
  await gateway.app.proxy.removeBackend('c')
  const with2 = await turns(gateway, 6)
  t.strictSame(['a', 'b', 'c'].map(id => with2.split(id).length - 1), [3, 3, 0])
})

t.test('named upstreams take turns of their own', async t => {
  const [a, b, c] = await Promise.all(['a', 'b', 'c'].map(async id => ({ id, url: (await rawBackend(t, () => ok(id))).url })))
  const gateway = await startGateway(t, {
    backends: [a, b],
    upstreams: { other: { backends: [b, c] } },
    routes: [{ prefix: '/' }, { prefix: '/other', upstream: 'other' }]
  })
  let answers = ''
  for (const url of ['/', '/other', '/', '/other', '/', '/other']) answers += (await gateway.app.inject(url)).body
  t.equal(answers, 'abbcab')
})

t.test('a slow backend does not hold up the turns of the others', async t => {
  const slow = await rawBackend(t, () => {})
  const quick = await rawBackend(t, () => ok('b'))
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: slow.url }, { id: 'b', url: quick.url }], routes: [{ prefix: '/' }] })
  const answers: string[] = []
  for (let i = 0; i < 4; i++) gateway.app.inject('/').then(response => answers.push(response.body), () => {})
  await until(() => answers.length === 2 && slow.requests.length === 2)
  t.strictSame(answers, ['b', 'b'])
})
