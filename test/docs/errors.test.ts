import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { errors, type ErrorCode } from '../../lib/errors.ts'

const root = join(import.meta.dirname, '../..')
const PREFIX = 'FST_ROCKSTAR_'

interface Row {
  code: string
  status: number
  meaning: string
}

/** The rows of the tables of docs/errors.md. */
const rows: Row[] = readFileSync(join(root, 'docs/errors.md'), 'utf8').split('\n')
  .map(line => /^\| `(\w+)` \| (\d+) \| (.*) \|$/.exec(line))
  .filter(match => match !== null)
  .map(([, code, status, meaning]) => ({ code, status: Number(status), meaning }))

t.test('every error of the code is in docs/errors.md, with its code and status', async t => {
  for (const name of Object.keys(errors) as ErrorCode[]) {
    const { code, statusCode } = new errors[name]()
    t.equal(code, PREFIX + name, `${name} is called what its code says`)
    t.match(rows.filter(row => row.code === code), [{ status: statusCode }], `${code} is documented with ${statusCode}`)
  }
})

t.test('docs/errors.md lists no error that the code does not have, and none twice', async t => {
  const known = Object.keys(errors).map(name => PREFIX + name)
  t.same(rows.map(row => row.code).sort(), known.sort())
})

t.test('every error is explained', async t => {
  for (const { code, meaning } of rows) t.match(meaning, /^\S.{10,}\.$/, code)
})

t.test('no page speaks of an error that the code does not have', async t => {
  const pages = ['README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', ...readdirSync(join(root, 'docs')).filter(name => name.endsWith('.md')).map(name => `docs/${name}`)]
  for (const page of pages) {
    const named = readFileSync(join(root, page), 'utf8').match(/FST_ROCKSTAR_[A-Z_]*[A-Z]/g) ?? []
    for (const code of new Set(named)) t.ok(code.slice(PREFIX.length) in errors, `${code} in ${page}`)
  }
})
