import fc from 'fast-check'
import t from 'tap'
import { PrefixMapping } from '../../../lib/forward/prefix-mapping.ts'

const mapping = new PrefixMapping('/v1', '/api', 'backend:81', 'client:82')
const locate = (value: string, by = mapping) => by.mapLocation('Location', value)

t.test('references', async t => {
  for (const [theirs, ours] of [
    ['/v1', '/api'], ['/v1/', '/api/'], ['/v1/a', '/api/a'], ['/v1?a', '/api?a'], ['/v1#a', '/api#a'], ['/v1//a', '/api//a'],
    ['/v1x', '/v1x'], ['/V1/a', '/V1/a'], ['/v', '/v'], ['/', '/'], ['', ''], ['v1/a', 'v1/a'], ['?a', '?a'],
    ['http://backend:81/v1/a', '/api/a'], ['https://BACKEND:81/v1/a', '/api/a'], ['//backend:81/v1/a', '/api/a'],
    ['http://backend/v1/a', 'http://backend/v1/a'], ['http://backend:81', 'http://backend:81'], ['http://backend:81/v2', 'http://backend:81/v2'],
    ['http://client:82/v1/a', 'http://client:82/api/a'], ['//client:82/v1', '//client:82/api'], ['http://client:82/v2', 'http://client:82/v2'],
    ['http://other/v1/a', 'http://other/v1/a'], ['//other/v1', '//other/v1'], ['///v1/a', '///v1/a'], ['ftp://backend:81/v1/a', 'ftp://backend:81/v1/a'],
    ['http://backend:81@other/v1/a', 'http://backend:81@other/v1/a'], ['http://user@backend:81/v1/a', 'http://user@backend:81/v1/a'], ['http:/v1/a', 'http:/v1/a'], ['/v1/$&/$1', '/api/$&/$1']
  ]) t.equal(locate(theirs), ours, theirs)
})

t.test('references where the prefix is only added, or only taken off', async t => {
  const added = new PrefixMapping('', '/api', 'backend', 'client')
  for (const [theirs, ours] of [['/', '/api/'], ['/a', '/api/a'], ['http://backend', '/api/'], ['http://backend/', '/api/'], ['http://backend?a', '/api/?a'], ['http://client/a', 'http://client/api/a'], ['/api/a', '/api/api/a']]) {
    t.equal(locate(theirs, added), ours, theirs)
  }
  const removed = new PrefixMapping('/base', '', 'backend', 'client')
  for (const [theirs, ours] of [['/base', '/'], ['/base/', '/'], ['/base/a', '/a'], ['/a', '/a'], ['http://backend/base', '/']]) {
    t.equal(locate(theirs, removed), ours, theirs)
  }
})

t.test('no mapping makes a path into a host', async t => {
  const removed = new PrefixMapping('/base', '', 'backend', 'client')
  for (const theirs of ['/base//other.example/a', 'http://backend/base//other.example/a']) {
    t.notMatch(locate(theirs, removed), /^\/[/\\]/, theirs)
  }
  t.notMatch(locate('/base/\\other.example', removed), /^\/[/\\]/)
})

t.test('Refresh', async t => {
  const refresh = (value: string) => mapping.mapLocation('Refresh', value)
  for (const [theirs, ours] of [
    ['5;url=/v1/a', '5;url=/api/a'], [' 5 ; URL = /v1/a', ' 5 ; URL = /api/a'], ['5,url=/v1', '5,url=/api'], ['5; url="/v1/a"', '5; url="/api/a"'],
    ['5', '5'], ['5; /v1/a', '5; /v1/a'], ['', ''], ['url=/v1', 'url=/v1'], ['5; url=', '5; url=']
  ]) t.equal(refresh(theirs), ours, theirs)
})

t.test('cookies', async t => {
  for (const [theirs, ours] of [
    ['a=1', 'a=1'], ['', ''], ['a=1; Path=/v1', 'a=1; Path=/api'], ['a=1;path=/v1/b;Secure', 'a=1;path=/api/b;Secure'], ['a=1; Secure; PATH=/v1/', 'a=1; Secure; PATH=/api/'],
    ['a=1; Path=/v2', 'a=1; Path=/v2'], ['a=1; Path=v1', 'a=1; Path=v1'], ['a=1; Path', 'a=1; Path'], ['a=/v1; Domain=/v1', 'a=/v1; Domain=/v1'], ['path=/v1', 'path=/v1']
  ]) t.equal(mapping.mapCookie(theirs), ours, theirs)
  t.equal(new PrefixMapping('/base', '', 'b', 'c').mapCookie('a=1; Path=/base'), 'a=1; Path=/')
})

t.test('what is below the inner prefix comes below the outer one, whatever it is; what is not, stays', async () => {
  const segment = fc.stringMatching(/^[a-z0-9%.~_-]{1,8}$/)
  const prefix = fc.array(segment, { minLength: 1, maxLength: 3 }).map(segments => `/${segments.join('/')}`)
  const rest = fc.stringMatching(/^(?:\/[!-~]{0,20})?(?:\?[!-~]{0,10})?$/)
  fc.assert(fc.property(prefix, prefix, rest, (inner, outer, rest) => {
    const by = new PrefixMapping(inner, outer, 'backend', 'client')
    return locate(inner + rest, by) === outer + rest && locate(`http://backend${inner}${rest}`, by) === outer + rest &&
      locate(`https://client${inner}${rest}`, by) === `https://client${outer}${rest}`
  }))
  fc.assert(fc.property(prefix, prefix, rest, segment, (inner, outer, rest, more) => {
    const by = new PrefixMapping(inner, outer, 'backend', 'client')
    const path = `${inner}${more}${rest}`
    return locate(path, by) === path && locate(`http://other${inner}${rest}`, by) === `http://other${inner}${rest}`
  }))
})

t.test('a very long value takes no time to speak of', async t => {
  const long = `0;url=${'/'.repeat(100_000)}`
  t.equal(mapping.mapLocation('Refresh', long), long)
  const spaces = `${' '.repeat(100_000)}5`
  t.equal(mapping.mapLocation('Refresh', spaces), spaces)
  const cookie = `a=1${';path '.repeat(20_000)}`
  t.equal(mapping.mapCookie(cookie), cookie)
  const digits = `${'1'.repeat(100_000)}x`
  t.equal(mapping.mapLocation('Refresh', digits), digits)
})
