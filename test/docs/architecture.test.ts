import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'

const root = join(import.meta.dirname, '../..')
const page = readFileSync(join(root, 'docs/architecture.md'), 'utf8')
const [, tree] = /```\n(types\/\n.*?)```/s.exec(page) ?? []

/** All TypeScript files below a folder, by their paths in the repository. */
function filesIn (folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap(entry => {
    const path = `${folder}/${entry.name}`
    return entry.isDirectory() ? filesIn(path) : path.endsWith('.ts') ? [path] : []
  })
}

/** The files that the page names, by their paths: a line that begins with a folder is about what stands further in below it. */
function namedFiles (): string[] {
  const folders: string[] = []
  return (tree ?? '').split('\n').flatMap(line => {
    const depth = /^ */.exec(line)![0].length / 2
    const [, folder] = /^ *([\w-]+)\//.exec(line) ?? []
    folders.length = depth
    if (folder !== undefined) {
      folders.push(folder)
      return []
    }
    return [...line.matchAll(/[\w-]+\.ts\b/g)].map(([name]) => [...folders, name].join('/'))
  })
}

t.test('every file has its place on the page, once, and every one that is named is there', async t => {
  const named = namedFiles()
  t.strictSame(named.filter((path, i) => named.indexOf(path) !== i), [], 'none is named twice')
  t.strictSame(named.filter(path => !existsSync(join(root, path))), [], 'all that are named are there')
  // What a folder's index.ts does is said of all of them.
  t.match(page, /An `index\.ts` lists what its folder offers/)
  const there = ['types', 'lib', 'plugins'].flatMap(filesIn).filter(path => !/^lib\/[\w-]+\/index\.ts$/.test(path))
  t.strictSame(there.filter(path => !named.includes(path)), [], 'all that are there are named')
})

t.test('what the text speaks of is there', async t => {
  const sources = ['types', 'lib', 'plugins'].flatMap(filesIn)
  const code = sources.map(path => readFileSync(join(root, path), 'utf8')).join('\n')
  const text = page.replaceAll(/```.*?```/gs, '')
  for (const [, name] of text.matchAll(/`([\w-]+\.ts)`/g)) t.ok(sources.some(path => path.endsWith(`/${name}`)), name)
  for (const [, folder] of text.matchAll(/`((?:lib|plugins|types)(?:\/[\w-]+)*\/)`/g)) t.ok(existsSync(join(root, folder)), folder)
  const known = new Set(['HTTP2', 'OPTIONS'])
  for (const [, name] of text.matchAll(/`([A-Z][a-z]\w*)`/g)) if (!known.has(name) && /[a-z][A-Z]/.test(name)) t.match(code, new RegExp(`\\b${name}\\b`), name)
  t.notMatch(text, /not there yet/i)
})
