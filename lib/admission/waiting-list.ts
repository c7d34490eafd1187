/** Somebody who waits. */
export interface Waiting {
  /** Lower numbers come first. */
  readonly priority: number
  /** When it came, as a number that grows. */
  readonly turn: number
  earlier: Waiting | null
  later: Waiting | null
  /** The list that it is in, while it is. */
  list: object | null
}

/** Those of one priority, in the order they came. */
class Level {
  readonly priority: number
  first: Waiting | null = null
  last: Waiting | null = null

  constructor (priority: number) {
    this.priority = priority
  }
}

/** Who waits: by priority, and within it by who came first or last. Joining costs the number of priorities, leaving nothing. */
export class WaitingList<Entry extends Waiting> {
  length = 0
  readonly newestFirst: boolean
  /** By priority, the most important first; none is empty. */
  #levels: Level[] = []

  constructor (newestFirst: boolean) {
    this.newestFirst = newestFirst
  }

  /** By the turn that it has: one that was there before gets its old place. @param near one that may be in the list, beside which that place is */
  add (entry: Entry, near: Entry | null = null): void {
    const level = this.#levelOf(entry.priority)
    let before = near?.list === level ? near as Waiting : level.last
    while (before !== null && before.turn > entry.turn) before = before.earlier
    while (before !== null && before.later !== null && before.later.turn < entry.turn) before = before.later
    entry.earlier = before
    entry.later = before === null ? level.first : before.later
    if (entry.earlier === null) level.first = entry
    else entry.earlier.later = entry
    if (entry.later === null) level.last = entry
    else entry.later.earlier = entry
    entry.list = level
    this.length++
  }

  remove (entry: Entry): void {
    const level = entry.list as Level | null
    if (level === null) return
    if (entry.earlier === null) level.first = entry.later
    else entry.earlier.later = entry.later
    if (entry.later === null) level.last = entry.earlier
    else entry.later.earlier = entry.earlier
    entry.earlier = entry.later = entry.list = null
    this.length--
    if (level.first === null) this.#levels = this.#levels.filter(other => other !== level)
  }

  /** The one that is served last; when the list is full, the one to go. */
  worst (): Entry | null {
    const level = this.#levels.at(-1)
    if (level === undefined) return null
    return (this.newestFirst ? level.first : level.last) as Entry
  }

  /** The one that is served first. */
  first (): Entry | null {
    return this.#firstOf(this.#levels[0])
  }

  /** The one that is served after another, which is in the list. */
  after (entry: Entry): Entry | null {
    const next = this.newestFirst ? entry.earlier : entry.later
    return next as Entry | null ?? this.#firstOf(this.#levels[this.#levels.indexOf(entry.list as Level) + 1])
  }

  #firstOf (level: Level | undefined): Entry | null {
    if (level === undefined) return null
    return (this.newestFirst ? level.last : level.first) as Entry
  }

  #levelOf (priority: number): Level {
    let at = 0
    while (at < this.#levels.length && this.#levels[at].priority < priority) at++
    if (this.#levels[at]?.priority !== priority) this.#levels.splice(at, 0, new Level(priority))
    return this.#levels[at]
  }
}
