import fc from 'fast-check'
import t from 'tap'
import { prefixRule, replacePrefix } from '../../../lib/forward/prefix.ts'

function replace (prefix: string, rewritePrefix: string, path: string, mergeSlashes = false) {
  return replacePrefix(path, prefixRule(prefix, rewritePrefix, { mergeSlashes, semicolonDelimiter: false }))
}

t.test('a prefix is taken off', async t => {
  for (const [prefix, path, expected] of [['/api', '/api', '/'], ['/api', '/api/', '/'], ['/api', '/api?x', '/?x'], ['/api', '/api/?x', '/?x'], ['/api', '/api/x/', '/x/'], ['/a/b', '/a/b/c', '/c'], ['/', '/x', '/x'], ['/', '/', '/'], ['', '/x', '/x'], ['/api/', '/api/x', '/x'], ['/api', '/api/x?/api/y', '/x?/api/y']]) {
    t.equal(replace(prefix, '', path).path, expected, `${prefix}: ${path}`)
  }
})

t.test('both prefixes are told, as the client wrote the one and the backend sees the other', async t => {
  t.strictSame(replace('/api', '/v1', '/%61pi/x'), { path: '/v1/x', outer: '/%61pi', inner: '/v1' })
  t.strictSame(replace('/users/:id', '/people/:id', '/users/7/x?y'), { path: '/people/7/x?y', outer: '/users/7', inner: '/people/7' })
  t.strictSame(replace('/', '/v1', '/x'), { path: '/v1/x', outer: '', inner: '/v1' })
  t.strictSame(replace('/api', '', '/api'), { path: '/', outer: '/api', inner: '' })
  t.strictSame(replace('/api', '/', '/api/x'), { path: '/x', outer: '/api', inner: '' })
  t.strictSame(replace('/api', '/v1/', '/api/x'), { path: '/v1/x', outer: '/api', inner: '/v1' })
})

t.test('several slashes count as one only where the router takes them so', async t => {
  t.equal(replace('/a/b', '/v1', '/a//b/x', true).path, '/v1/x')
  t.equal(replace('/a/b', '/v1', '/a///b', true).path, '/v1')
  t.equal(replace('/a/b', '/v1', '/a/b//x', true).path, '/v1//x')
})

// A model of the whole: a prefix of fixed segments and parameters, a path that matches it, and what must come of it.

const NAMES = ['id', 'idx', 'a', 'tenant']
const raw = fc.constantFrom('x', 'Y1', '%20', '%2f', '%2F', '%3f', ':id', ':a', ':', '~', '$&', '$1', '..x', ';p=1', '%E2%82%AC', '\xe9', '-', ',', '@')
const text = fc.array(raw, { minLength: 1, maxLength: 3 }).map(parts => parts.join(''))
const fixed = fc.stringMatching(/^[a-z][a-z0-9]{0,4}$/)

interface Segment {
  name: string | null
  pattern: string
  written: string
}

const parameter = (name: string) => fc.tuple(text, fc.boolean()).map(([written, restricted]): Segment => ({ name, pattern: `:${name}${restricted ? '(^.*$)' : ''}`, written }))
const literal = fc.tuple(fixed, fc.array(fc.boolean(), { minLength: 5, maxLength: 5 })).map(([name, encoded]): Segment => ({
  name: null,
  pattern: name,
  written: [...name].map((character, i) => encoded[i] ? `%${character.charCodeAt(0).toString(16)}` : character).join('')
}))
const segments = fc.shuffledSubarray(NAMES).chain(names => fc.tuple(...names.map(parameter)))
  .chain(parameters => fc.array(literal, { maxLength: 3 }).chain(literals => {
    const all: Segment[] = [...parameters, ...literals]
    return fc.shuffledSubarray(all, { minLength: all.length })
  }))
const rest = fc.oneof(fc.constant(''), fc.array(fc.oneof(raw, fc.constantFrom('/', '//')), { maxLength: 6 }).map(parts => `/${parts.join('')}`))
const query = fc.oneof(fc.constant(''), fc.array(fc.oneof(raw, fc.constantFrom('/', '?', '=', '&', '/../')), { maxLength: 4 }).map(parts => `?${parts.join('')}`))
const rewriting = fc.tuple(fc.array(fc.oneof(fixed, fc.constantFrom(...NAMES, 'other').map(name => `:${name}`)), { maxLength: 4 }), fc.boolean())

/** Every `:name` of a whole segment becomes the text of that parameter, once. */
function expectedInner (rewritten: string[], all: Segment[]): string {
  return rewritten.map(part => `/${all.find(({ name }) => name !== null && `:${name}` === part)?.written ?? part}`).join('')
}

t.test('any prefix becomes any other, and every byte around it stays', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(segments, rest, query, rewriting, (all, rest, query, [rewritten, slash]) => {
    fc.pre(all.length > 0)
    const prefix = all.map(({ pattern }) => `/${pattern}`).join('')
    const outer = all.map(({ written }) => `/${written}`).join('')
    const inner = expectedInner(rewritten, all)
    const result = replace(prefix, rewritten.map(part => `/${part}`).join('') + (slash ? '/' : ''), outer + rest + query)
    const path = inner + rest + query
    return result.outer === outer && result.inner === inner && result.path === (path.startsWith('/') ? path : `/${path}`)
  }), { numRuns: 3000 }))
})

t.test('with slashes repeated inside the prefix, where the router merges them', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(segments, fc.infiniteStream(fc.integer({ min: 1, max: 3 })), rest, query, (all, slashes, rest, query) => {
    fc.pre(all.length > 0)
    const outer = all.map(({ written }, i) => '/'.repeat(i === 0 ? 1 : slashes.next().value as number) + written).join('')
    const result = replace(all.map(({ pattern }) => `/${pattern}`).join(''), '/in', outer + rest + query, true)
    return result.outer === outer && result.path === `/in${rest}${query}`
  }), { numRuns: 1000 }))
})

t.test('the path that comes out begins with a slash, whatever went in', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(segments, fc.string(), rewriting, (all, anything, [rewritten]) => {
    const { path } = replace(all.map(({ pattern }) => `/${pattern}`).join(''), rewritten.map(part => `/${part}`).join(''), `/${anything}`)
    return path.startsWith('/')
  }), { numRuns: 1000 }))
})
