import type { LookupFunction } from 'node:net'
import t from 'tap'
import { AllowedBackends } from '../../lib/allowed-backends.ts'
import { Backend } from '../../lib/backend.ts'

/** Where names lead. */
const names: Record<string, string[]> = {
  'inside.example': ['10.1.2.3'],
  'both.example': ['10.1.2.3', '127.0.0.1'],
  'v6.example': ['fd00::5'],
  'mapped.example': ['::ffff:10.1.2.3'],
  'outside.example': ['169.254.169.254']
}
const lookup = ((name: string, _options: object, callback: (error: Error | null, addresses: { address: string, family: number }[]) => void) => {
  const addresses = names[name]
  if (addresses === undefined) callback(new Error('ENOTFOUND'), [])
  else callback(null, addresses.map(address => ({ address, family: address.includes(':') ? 6 : 4 })))
}) as unknown as LookupFunction

const refused = /^body.url must be where backends are allowed \(allowBackends\), and is /

t.test('names, ends of names, addresses, networks and sockets', async t => {
  const allowed = new AllowedBackends(['API.example', '*.svc.example', '10.0.0.0/8', 'fd00::/8', '192.168.1.5', '[2001:db8::1]', 'bücher.example', 'unix:/run/app.sock'])
  for (const url of [
    'http://api.example', 'https://API.EXAMPLE:8443/base', 'http://a.svc.example', 'http://a.b.svc.example:1', 'http://10.0.0.1', 'http://10.255.255.255:99', 'http://192.168.1.5', 'http://[fd00::1]:1', 'http://[2001:db8::1]',
    'http://[::ffff:10.0.0.1]', 'http://[::ffff:a00:1]', 'http://167772161', 'http://012.0.0.1', 'http://0xa.1', 'http://10.1', 'http://xn--bcher-kva.example', 'http://b\u00fccher.example',
    'http://inside.example', 'http://v6.example', 'http://mapped.example', 'unix:/run/app.sock', 'unix:/run/app.sock:/base', 'http://unix:/run/app.sock', new URL('http://10.0.0.1')
  ]) await t.resolves(allowed.check(url, lookup), String(url))
  for (const url of [
    'http://127.0.0.1', 'http://localhost', 'http://2130706433', 'http://0177.0.0.1', 'http://0x7f000001', 'http://127.1', 'http://0', 'http://[::1]', 'http://[::ffff:127.0.0.1]', 'http://[::ffff:7f00:1]', 'http://[::]', 'http://169.254.169.254',
    'http://11.0.0.1', 'http://192.168.1.6', 'http://[2001:db8::2]', 'http://[64:ff9b::a00:1]', 'http://svc.example', 'http://evilsvc.example', 'http://api.example.evil.example', 'http://xapi.example', 'http://api.example.', 'http://127.0.0.1.', 'http://①②⑦.0.0.1',
    'http://both.example', 'http://outside.example', 'http://nowhere.example', 'unix:/var/run/docker.sock', 'unix:/run/app.sock%2F..%2Fx', 'unix:@app', 'http://unix:/var/run/docker.sock', 'UNIX:/var/run/docker.sock', 'HTTP://UNIX:/var/run/docker.sock'
  ]) await t.rejects(allowed.check(url, lookup), { code: 'FST_ROCKSTAR_INVALID_REQUEST', statusCode: 400, message: refused }, url)
})

t.test('what is no URL of a backend is refused for that, elsewhere', async t => {
  const allowed = new AllowedBackends([])
  for (const url of ['', 'x', 'ftp://127.0.0.1', 'http://user:pw@127.0.0.1', 'http://127.0.0.1?x']) await t.resolves(allowed.check(url, lookup), url)
  await t.rejects(allowed.check('http://10.0.0.1', lookup), { message: refused }, 'an empty list allows nothing')
})

t.test('what cannot be allowed', async t => {
  for (const entry of ['10.0.0.0/33', '10.0.0.0/-1', '10.0.0.0/x', '10.0.0.0/8/9', '/8', 'fd00::/129', 'http://x', 'x:80', '10.0.0.1:80', '*', '*.', '*.*.x', 'a b', 'user@x', '*.10.0.0.1', 'unix:', 'unix:x', 'x/8', '[x]', '']) {
    t.throws(() => new AllowedBackends(['ok.example', entry], 'options.allowBackends'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^options.allowBackends\[1\] must be a host name/ }, entry)
  }
})

t.test('connections go nowhere else either', async t => {
  const allowed = new AllowedBackends(['10.0.0.0/8', 'named.example'])
  const lookUp = (backend: Backend, options: object): Promise<unknown> => new Promise(resolve => backend.lookup?.(backend.url.hostname, options, (error, address) => resolve(error ?? address)))
  const backend = new Backend('http://inside.example', 0)
  let addresses = ['10.1.2.3']
  backend.lookup = ((_name: string, options: { all?: boolean }, callback: (error: Error | null, address: unknown, family?: number) => void) => {
    if (options.all === true) callback(null, addresses.map(address => ({ address, family: 4 })))
    else callback(null, addresses[0], 4)
  }) as unknown as LookupFunction
  allowed.bind(backend)
  t.strictSame(await lookUp(backend, { all: true }), [{ address: '10.1.2.3', family: 4 }])
  t.equal(await lookUp(backend, {}), '10.1.2.3')
  addresses = ['127.0.0.1']
  for (const options of [{ all: true }, {}]) t.match(await lookUp(backend, options), { code: 'EACCES', message: 'the name leads to an address at which no backend is allowed' })
  addresses = ['10.1.2.3', '127.0.0.1']
  t.match(await lookUp(backend, { all: true }), { code: 'EACCES' }, 'one of several is enough')
  backend.lookup = ((_name: string, _options: object, callback: (error: Error | null, address: unknown) => void) => callback(new Error('gone'), '')) as unknown as LookupFunction
  allowed.bind(backend)
  t.match(await lookUp(backend, {}), { message: 'gone' })
  const named = new Backend('http://named.example', 0)
  allowed.bind(named)
  t.equal(named.lookup, undefined, 'a name that is listed leads where it leads')
  const socket = new Backend('unix:/x.sock', 0)
  allowed.bind(socket)
  t.equal(socket.lookup, undefined)
})
