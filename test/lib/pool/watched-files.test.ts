import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, unlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { WatchedFiles } from '../../../lib/pool/watched-files.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { until } from '../../helpers/wire.ts'

const LIMIT = 10_000

function folderFor (t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'rockstar-proxy-watched-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Moves time on until something holds: looking at files takes a while. */
async function advanceUntil (clock: FakeClock, step: number, holds: () => boolean): Promise<void> {
  await until(() => {
    clock.advance(step)
    return holds()
  })
}

async function watched (t: Test, paths: string[]): Promise<{ clock: FakeClock, files: WatchedFiles, changes: () => number }> {
  const clock = new FakeClock()
  let changes = 0
  const files = new WatchedFiles(paths, clock, () => { changes++ })
  t.teardown(() => files.close())
  // The first look tells of them: they may have changed since they were read.
  await advanceUntil(clock, 100, () => changes === 1)
  return { clock, files, changes: () => changes - 1 }
}

t.test('what the system does not tell of is seen by looking: a file behind a link in another folder', { timeout: LIMIT }, async t => {
  const [folder, elsewhere] = [folderFor(t), folderFor(t)]
  const file = join(elsewhere, 'real.pem')
  writeFileSync(file, 'one')
  symlinkSync(file, join(folder, 'link.pem'))
  const { clock, changes } = await watched(t, [join(folder, 'link.pem')])
  writeFileSync(file, 'two')
  utimesSync(file, 1, 1)
  clock.advance(4_000)
  t.equal(changes(), 0)
  await advanceUntil(clock, 1_000, () => changes() === 1)
})

t.test('changes in one go are told of once', { timeout: LIMIT }, async t => {
  const folder = folderFor(t)
  const paths = ['a', 'b', 'c'].map(name => join(folder, name))
  for (const path of paths) writeFileSync(path, 'one')
  const { clock, changes } = await watched(t, paths)
  for (const path of paths) writeFileSync(path, 'other')
  await advanceUntil(clock, 1, () => changes() === 1)
  for (let i = 0; i < 50; i++) {
    clock.advance(500)
    await new Promise(resolve => setImmediate(resolve))
  }
  t.equal(changes(), 1)
})

t.test('a file that goes, and comes back in a folder that is another', { timeout: LIMIT }, async t => {
  const root = folderFor(t)
  const folder = join(root, 'tls')
  mkdirSync(folder)
  const file = join(folder, 'a')
  writeFileSync(file, 'one')
  const { clock, changes } = await watched(t, [file])
  renameSync(folder, join(root, 'gone'))
  await advanceUntil(clock, 500, () => changes() === 1)
  mkdirSync(folder)
  writeFileSync(file, 'two')
  await advanceUntil(clock, 500, () => changes() === 2)
  unlinkSync(file)
  await advanceUntil(clock, 500, () => changes() === 3)
})

t.test('closed, it holds nothing and tells nothing', { timeout: LIMIT }, async t => {
  const folder = folderFor(t)
  const file = join(folder, 'a')
  writeFileSync(file, 'one')
  const { clock, files, changes } = await watched(t, [file])
  await until(() => clock.timers === 1)
  files.close()
  writeFileSync(file, 'other')
  t.equal(clock.timers, 0)
  clock.advance(60_000)
  await new Promise(resolve => setImmediate(resolve))
  t.equal(changes(), 0)
  t.notOk(process.getActiveResourcesInfo().includes('FSEventWrap'))
})

t.test('a folder that is not there is looked for', { timeout: LIMIT }, async t => {
  const folder = join(folderFor(t), 'later')
  const { clock, changes } = await watched(t, [join(folder, 'a')])
  mkdirSync(folder)
  writeFileSync(join(folder, 'a'), 'one')
  await advanceUntil(clock, 5_000, () => changes() === 1)
})

t.test('what goes on all the time in the folder does not put a look off', { timeout: LIMIT }, async t => {
  const folder = folderFor(t)
  const [file, log] = [join(folder, 'cert.pem'), join(folder, 'log')]
  writeFileSync(file, 'one')
  const { clock, changes } = await watched(t, [file])
  writeFileSync(file, 'two')
  await advanceUntil(clock, 10, () => {
    // Each tells of itself before the folder has been quiet for long enough.
    writeFileSync(log, String(clock.now()))
    return changes() === 1
  })
  t.pass()
})
