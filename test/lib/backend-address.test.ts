import t from 'tap'
import { addressOf } from '../../lib/backend-address.ts'
import { Backend } from '../../lib/backend.ts'

t.test('the URL of a Unix socket is its path and perhaps a base path, in both spellings', t => {
  const addresses: [string | URL, string, string, string][] = [
    ['unix:/run/app.sock', '/run/app.sock', '', 'unix:/run/app.sock'],
    ['unix:/run/app.sock:', '/run/app.sock', '', 'unix:/run/app.sock'],
    ['unix:/run/app.sock:/', '/run/app.sock', '', 'unix:/run/app.sock'],
    ['unix:/run/app.sock:/base', '/run/app.sock', '/base', 'unix:/run/app.sock:/base'],
    ['unix:/run/app.sock:/base/', '/run/app.sock', '/base', 'unix:/run/app.sock:/base/'],
    ['unix:/run/app.sock:/a:b/c%2Fd', '/run/app.sock', '/a:b/c%2Fd', 'unix:/run/app.sock:/a:b/c%2Fd'],
    ['http://unix:/run/app.sock:/base', '/run/app.sock', '/base', 'unix:/run/app.sock:/base'],
    ['HTTP://UNIX:/run/app.sock', '/run/app.sock', '', 'unix:/run/app.sock'],
    ['unix:///run/app.sock:/base', '/run/app.sock', '/base', 'unix:/run/app.sock:/base'],
    ['unix:/run/with space', '/run/with space', '', 'unix:/run/with%20space'],
    ['unix:/run/with%20space', '/run/with space', '', 'unix:/run/with%20space'],
    ['unix:/run/a%3Ab.sock:/c', '/run/a:b.sock', '/c', 'unix:/run/a%3Ab.sock:/c'],
    ['unix:/run/ü.sock', '/run/ü.sock', '', 'unix:/run/%C3%BC.sock'],
    [new URL('unix:/run/app.sock:/base'), '/run/app.sock', '/base', 'unix:/run/app.sock:/base']
  ]
  if (process.platform === 'linux') addresses.push(['unix:@abstract', '@abstract', '', 'unix:@abstract'], ['unix:@abstract:/base', '@abstract', '/base', 'unix:@abstract:/base'])
  for (const [input, socketPath, basePath, href] of addresses) {
    t.match(addressOf(input, 'url'), { socketPath, basePath, href, id: href, origin: 'http://localhost', host: 'localhost', servername: null }, String(input))
    t.strictSame(addressOf(href, 'url'), addressOf(input, 'url'), 'what is shown means the same')
  }
  t.end()
})

t.test('a URL of a Unix socket that is none is refused, with what is wrong about it', t => {
  const bad: [string, RegExp][] = [
    ['unix:', /has no path of a socket/], ['unix:run/app.sock', /has no path of a socket/], ['unix://host/run/app.sock', /has no path of a socket/],
    ['unix:/run/app.sock:base', /has no path of a socket/], ['unix:@', /has no path of a socket/], ['unix:/', /has no path of a socket/],
    ['unix:/run/a%ZZ', /an escape is none/], ['unix:/run/a%00b', /an escape is none/], ['unix:/run/app.sock?x=1', /query or a fragment/], ['unix:/run/app.sock#x', /query or a fragment/],
    ['unix:/run/app.sock:/base?x=1', /query or a fragment/], ['https://unix:/run/app.sock', /pool\.socketPath/], [`unix:/run/${'x'.repeat(120)}`, /longer path than the system has room for/]
  ]
  for (const [url, problem] of bad) {
    t.throws(() => addressOf(url, 'backends[0]'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^backends\[0\] must be an http:, https: or unix: URL, and is '/ }, url)
    t.throws(() => addressOf(url, 'backends[0]'), { message: problem }, url)
  }
  t.end()
})

t.test('hosts that are names or addresses, with ports and base paths', t => {
  for (const [url, host, servername, basePath] of [
    ['http://example.com', 'example.com', null, ''], ['http://example.com:80/a/', 'example.com', null, '/a'], ['https://example.com:8443/a/b', 'example.com:8443', 'example.com', '/a/b'],
    ['http://[::1]:8080/x', '[::1]:8080', null, '/x'], ['https://[2001:db8::1]', '[2001:db8::1]', '2001:db8::1', ''], ['https://127.0.0.1', '127.0.0.1', '127.0.0.1', ''], ['http://unix/run/app.sock', 'unix', null, '/run/app.sock']
  ] as const) t.match(addressOf(url, 'url'), { host, servername, basePath, socketPath: undefined, id: host }, url)
  t.end()
})

t.test('a backend on a Unix socket shows its URL so that it can be given again', t => {
  const backend = new Backend('unix:/run/app.sock:/base', 0)
  t.equal(backend.id, 'unix:/run/app.sock:/base')
  t.equal(backend.toJSON().url, 'unix:/run/app.sock:/base')
  t.equal(backend.url.href, 'unix:/run/app.sock:/base')
  t.strictSame(new Backend({ url: backend.toJSON().url }, 0).toJSON(), backend.toJSON())
  t.end()
})
