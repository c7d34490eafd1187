import t from 'tap'
import { Tallies } from '../../../lib/metrics/index.ts'

t.test('a reset sets all to zero, those within as well', async t => {
  const tallies = new Tallies()
  const fresh = JSON.stringify(tallies)
  const raise = (counts: Record<string, unknown>) => {
    for (const [name, count] of Object.entries(counts)) {
      if (typeof count === 'number') counts[name] = count + 5
      else raise(count as Record<string, unknown>)
    }
  }
  raise(tallies as unknown as Record<string, unknown>)
  t.notMatch(JSON.stringify(tallies), /:0/)
  tallies.reset()
  t.equal(JSON.stringify(tallies), fresh)
})
