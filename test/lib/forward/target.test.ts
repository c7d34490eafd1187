import fc from 'fast-check'
import t from 'tap'
import { assertCanonical, isAuthority, parseTarget } from '../../../lib/forward/target.ts'

const BAD = { code: 'FST_ROCKSTAR_BAD_REQUEST', statusCode: 400 }

t.test('a path is taken as it is', async t => {
  for (const path of ['/', '/a', '/a?b', '/?', '/a/b//c', '/x%2Fa', '/a%20b?c=%00', '/\xe9\xff', '/a;b/c', '/..a', '/a..']) {
    t.strictSame(parseTarget(path, 'GET'), { path, authority: undefined, asterisk: false }, path)
  }
})

t.test('an absolute form is taken apart', async t => {
  for (const [target, authority, path] of [
    ['http://a', 'a', '/'], ['http://a/', 'a', '/'], ['http://a?b', 'a', '/?b'], ['http://a/b?c', 'a', '/b?c'], ['HTTPS://A.b:81/c', 'A.b:81', '/c'], ['http://[::1]:80/x', '[::1]:80', '/x'], ['http://a/http://b@c/', 'a', '/http://b@c/'], ['http://a?/b@c', 'a', '/?/b@c']
  ]) t.strictSame(parseTarget(target, 'GET'), { path, authority, asterisk: false }, target)
})

t.test('* is for OPTIONS only, and so is an absolute form of it', async t => {
  t.strictSame(parseTarget('*', 'OPTIONS'), { path: '/', authority: undefined, asterisk: true })
  t.strictSame(parseTarget('http://a:81', 'OPTIONS'), { path: '/', authority: 'a:81', asterisk: true })
  t.strictSame(parseTarget('http://a/', 'OPTIONS'), { path: '/', authority: 'a', asterisk: false })
  for (const method of ['GET', 'POST', 'options']) t.throws(() => parseTarget('*', method), BAD)
  for (const target of ['**', '*/', '/../*', '* ', '']) t.throws(() => parseTarget(target, 'OPTIONS'), BAD, target)
})

t.test('what is no target is refused', async t => {
  for (const target of ['', 'a', 'a/b', '?a', 'ftp://a/', 'http:/a', 'http:a', 'http//a', '://a/', ' /a', 'http://', 'http:///a', 'http://u@a/', 'http://u:p@a/', 'http://a:b/', 'http://a b/', 'http://[a]/', 'http://a\\b/', 'http://a#b', 'http://a/#b', 'http://a/../b', 'http://a//b', 'http://é/']) {
    t.throws(() => parseTarget(target, 'GET'), BAD, target)
  }
})

t.test('the error says what is wrong and shows nothing of the target', async t => {
  t.throws(() => parseTarget('/secret/../x', 'GET'), { message: /^The request cannot be forwarded: its path has dot segments$/ })
  t.throws(() => parseTarget('/a%00', 'GET'), { message: /NUL/ })
  t.throws(() => parseTarget('//a', 'GET'), { message: /slash/ })
  t.throws(() => parseTarget(`/%${'25'.repeat(30)}2e%2e`, 'GET'), { message: /encoding/ })
})

t.test('an authority is a host and perhaps a port', async t => {
  for (const value of ['a', 'a.b', 'a-b_c~d', 'A:80', 'a:', '1.2.3.4:0', '[::1]', '[2001:db8::1]:8080', '[::ffff:1.2.3.4]', 'a%20b', '!$&\'()*+,;=', 'a:65535']) t.equal(isAuthority(value), true, value)
  for (const value of ['', ':', ':80', 'a:b', 'a:80:90', 'a:123456', 'a b', 'a/b', 'a?b', 'a#b', 'a@b', 'a\\b', 'a"b', '<a>', 'a\n', 'a\r\nb', 'a\0', 'é', 'a\xe9', '[', '[]', '[a]', '[abc]', '[1:2]', '[:::]', '[1.2.3.4]', 'a%zz', 'a%', '[::1', '::1', '[::1]a', '[::1]:x', 'a[b]', 'a|b', 'a^b', '`a`', '{a}']) t.equal(isAuthority(value), false, JSON.stringify(value))
})

/** How the most obliging of backends might read a path: decodes until nothing is left to decode. */
function resolved (path: string): { path: string, layers: number } {
  let layers = 0
  while (/%[0-9a-f]{2}/i.test(path)) {
    path = path.replaceAll(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)))
    layers++
  }
  return { path, layers }
}

/** Whether such a backend would see another place than the path shows. */
function leads (path: string): boolean {
  if (path.includes('\0') || path.startsWith('//') || path.startsWith('/\\')) return true
  return path.replaceAll('\\', '/').split('/').some(segment => /^\.\.?(?:;|$)/.test(segment))
}

const FRAGMENTS = ['.', '..', '/', '/', '%2e', '%2E', '%2f', '%2F', '%5c', '%5C', '%25', '%252e', '%252f', '2e', '2F', '5c', '25', ';', '%3b', '%', '%00', '%2500', 'a', 'b.c', ',', '\\', '...', '%41', '~']
const paths = fc.array(fc.constantFrom(...FRAGMENTS), { maxLength: 9 }).map(parts => `/${parts.join('')}`)
const queries = fc.oneof(fc.constant(''), fc.array(fc.constantFrom(...FRAGMENTS, '?', '&', '='), { maxLength: 6 }).map(parts => `?${parts.join('')}`))

function accepts (target: string): boolean {
  try {
    assertCanonical(target)
    return true
  } catch (error) {
    if ((error as { code?: string }).code !== 'FST_ROCKSTAR_BAD_REQUEST') throw error
    return false
  }
}

t.test('every path that leads elsewhere is refused, in whatever layers of encoding', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(paths, queries, (path, query) => !leads(resolved(path).path) || !accepts(path + query)), { numRuns: 20_000 }))
})

t.test('every path that leads nowhere else passes, whatever its query', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(paths, queries, (path, query) => {
    const { path: place, layers } = resolved(path)
    fc.pre(!leads(place) && !place.includes('\\') && layers < 6)
    return accepts(path + query)
  }), { numRuns: 5000 }))
})

t.test('what passes in itself passes below a prefix, and what is refused stays refused there', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(paths, path => accepts(path) ? accepts(`/api${path}`) : !accepts(`/api${path}`) || /^\/(?:[/\\]|%)/.test(path)), { numRuns: 5000 }))
})

t.test('controls, spaces, fragments and characters that are no bytes are refused, in a query too', async t => {
  for (const character of ['\0', '\r', '\n', '\t', ' ', '#', 'Ā', '€', '\ud83d\ude80']) {
    t.throws(() => assertCanonical(`/a${character}b`), BAD, JSON.stringify(character))
    t.throws(() => assertCanonical(`/a?b${character}c`), BAD, JSON.stringify(character))
  }
})
