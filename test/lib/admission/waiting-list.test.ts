import fc from 'fast-check'
import t from 'tap'
import { WaitingList, type Waiting } from '../../../lib/admission/waiting-list.ts'

class Guest implements Waiting {
  readonly priority: number
  readonly turn: number
  earlier: Waiting | null = null
  later: Waiting | null = null
  list: object | null = null

  constructor (priority: number, turn: number) {
    this.priority = priority
    this.turn = turn
  }
}

/** All who wait, in the order they are served. */
function served (list: WaitingList<Guest>): Guest[] {
  const all: Guest[] = []
  for (let guest = list.first(); guest !== null; guest = list.after(guest)) all.push(guest)
  return all
}

/** The same list as it could be written with no thought for speed. */
class Plain {
  all: Guest[] = []
  readonly newestFirst: boolean

  constructor (newestFirst: boolean) {
    this.newestFirst = newestFirst
  }

  add (guest: Guest): void {
    this.all.push(guest)
    this.all.sort((a, b) => a.priority - b.priority || (this.newestFirst ? b.turn - a.turn : a.turn - b.turn))
  }

  remove (guest: Guest): void {
    this.all = this.all.filter(other => other !== guest)
  }
}

const step = fc.oneof(
  fc.record({ kind: fc.constant('come' as const), priority: fc.constantFrom(-1, 0, 0, 1, 2.5, Infinity, -Infinity) }),
  fc.record({ kind: fc.constantFrom('leave' as const, 'back' as const, 'again' as const), who: fc.nat(), near: fc.option(fc.nat()) })
)

t.test('whatever comes, leaves and comes back, the list is as a plain sorted one', async t => {
  fc.assert(fc.property(fc.boolean(), fc.array(step, { maxLength: 60 }), (newestFirst, steps) => {
    const list = new WaitingList<Guest>(newestFirst)
    const plain = new Plain(newestFirst)
    const guests: Guest[] = []
    for (const step of steps) {
      if (step.kind === 'come') {
        const guest = new Guest(step.priority, guests.length)
        guests.push(guest)
        list.add(guest)
        plain.add(guest)
      } else if (guests.length > 0) {
        const guest = guests[step.who % guests.length]
        const waits = guest.list !== null
        if (step.kind !== 'back' || waits) {
          list.remove(guest)
          plain.remove(guest)
        }
        if (step.kind === 'again' || (step.kind === 'back' && !waits)) {
          // The one beside which its place is said to be may be anyone, and may have left.
          list.add(guest, step.near === null ? null : guests[step.near % guests.length])
          plain.add(guest)
        }
      }
      const expected = plain.all
      const is = served(list)
      if (is.length !== expected.length || is.some((guest, i) => guest !== expected[i])) return false
      if (list.length !== expected.length || list.first() !== (expected[0] ?? null) || list.worst() !== (expected.at(-1) ?? null)) return false
      if (guests.some(guest => (guest.list !== null) !== expected.includes(guest))) return false
    }
    return true
  }), { numRuns: 2_000 })
  t.pass()
})

t.test('an empty list has no first and no worst, and who is not in it is not taken out', async t => {
  const list = new WaitingList<Guest>(false)
  t.equal(list.first(), null)
  t.equal(list.worst(), null)
  list.remove(new Guest(0, 0))
  t.equal(list.length, 0)
})

t.test('who comes, is asked and comes back is put into place without a walk over all who wait', async t => {
  for (const newestFirst of [false, true]) {
    const list = new WaitingList<Counted>(newestFirst)
    let looks = 0
    class Counted extends Guest {
      #turn: number

      constructor (turn: number) {
        super(0, 0)
        this.#turn = turn
        Object.defineProperty(this, 'turn', { get: () => { looks++; return this.#turn } })
      }
    }
    for (let i = 0; i < 1_000; i++) list.add(new Counted(i))
    looks = 0
    let stuck: Counted | null = null
    for (let i = 0; i < 100; i++) {
      const guest: Counted = stuck === null ? list.first() as Counted : list.after(stuck) as Counted
      list.remove(guest)
      list.add(guest, stuck ?? list.first())
      stuck = guest
    }
    t.ok(looks <= 800, `${looks} comparisons for 100 who were asked, ${newestFirst ? 'the newest' : 'the oldest'} first`)
    t.equal(list.length, 1_000)
  }
})
