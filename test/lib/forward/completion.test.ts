import t from 'tap'
import { Completion } from '../../../lib/forward/completion.ts'

const rejections: unknown[] = []
const onRejection = (reason: unknown) => { rejections.push(reason) }
process.on('unhandledRejection', onRejection)
t.teardown(() => process.off('unhandledRejection', onRejection))

/** Long enough for Node to have told of a rejection that nobody has handled. */
const turn = () => new Promise(resolve => setImmediate(() => setImmediate(resolve)))

t.test('fulfils those who ask before, and those who ask behind', async t => {
  const completion = new Completion<number>()
  const before = completion.then(value => value + 1)
  completion.fulfil(1)
  t.equal(await before, 2)
  t.equal(await completion, 1)
  t.equal(await completion.then(), 1)
})

t.test('rejects those who ask before, and those who ask behind', async t => {
  const completion = new Completion<number>()
  const before = completion.catch(error => (error as Error).message)
  completion.reject(new Error('no'))
  t.equal(await before, 'no')
  await t.rejects(async () => await completion, { message: 'no' })
  t.equal(await completion.then(() => 'yes', () => 'no'), 'no')
})

t.test('settles once', async t => {
  const fulfilled = new Completion<number>()
  fulfilled.fulfil(1)
  fulfilled.fulfil(2)
  fulfilled.reject(new Error('no'))
  t.equal(await fulfilled, 1)
  const rejected = new Completion<number>()
  rejected.reject(new Error('first'))
  rejected.reject(new Error('second'))
  rejected.fulfil(1)
  await t.rejects(rejected.then(), { message: 'first' })
})

t.test('finally runs either way, and changes nothing', async t => {
  let runs = 0
  const fulfilled = new Completion<number>()
  fulfilled.fulfil(1)
  t.equal(await fulfilled.finally(() => { runs++ }), 1)
  const rejected = new Completion<number>()
  const last = rejected.finally(() => { runs++ })
  rejected.reject(new Error('no'))
  await t.rejects(last, { message: 'no' })
  t.equal(runs, 2)
})

t.test('works in async functions, Promise.all and Promise.race', async t => {
  const completion = new Completion<string>()
  const all = Promise.all([completion, completion])
  const race = Promise.race([completion, new Promise<string>(() => {})])
  completion.fulfil('a')
  t.same(await all, ['a', 'a'])
  t.equal(await race, 'a')
  t.equal(await Promise.resolve(completion), 'a')
})

t.test('knows whether anybody waits', async t => {
  for (const ask of [
    (completion: Completion<void>) => completion.then(),
    (completion: Completion<void>) => completion.catch(() => {}),
    (completion: Completion<void>) => completion.finally(() => {})
  ]) {
    const completion = new Completion<void>()
    t.equal(completion.observed, false)
    ask(completion)
    t.equal(completion.observed, true)
  }
})

t.test('is no unhandled rejection while nobody asks', async t => {
  new Completion<void>().reject(new Error('ignored'))
  await turn()
  t.same(rejections, [])
})

t.test('is one like any other once somebody asks and does not handle it', async t => {
  const completion = new Completion<void>()
  completion.then(() => {}).catch(() => {})
  completion.reject(new Error('handled'))
  await turn()
  t.same(rejections, [])
})

t.test('looks like a promise', async t => {
  const completion = new Completion<void>()
  t.equal(Object.prototype.toString.call(completion), '[object Completion]')
  t.equal(typeof completion.then, 'function')
})
