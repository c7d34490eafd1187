import { Admission, type Entrant } from '../../../lib/admission/index.ts'
import type { Concurrency } from '../../../lib/admission/concurrency.ts'
import type { LimitsOptions } from '../../../types/index.ts'
import { seeded } from '../../helpers/random.ts'

/** Time that goes from one event to the next, whatever the machine takes for them. */
export class Timeline {
  now = 0
  /** A heap: what comes next is first. */
  readonly #heap: { at: number, order: number, run: () => void }[] = []
  #order = 0

  after (milliseconds: number, run: () => void): void {
    const heap = this.#heap
    heap.push({ at: this.now + milliseconds, order: this.#order++, run })
    for (let i = heap.length - 1; i > 0;) {
      const parent = (i - 1) >> 1
      if (!this.#isBefore(i, parent)) break
      this.#swap(i, parent)
      i = parent
    }
  }

  /** Lets time pass. After each event comes what was left for the next tick. */
  async pass (milliseconds: number): Promise<void> {
    const end = this.now + milliseconds
    while (this.#heap.length > 0 && this.#heap[0].at <= end) {
      const { at, run } = this.#next()
      this.now = at
      run()
      await new Promise<void>(resolve => process.nextTick(resolve))
    }
    this.now = end
  }

  #next (): { at: number, run: () => void } {
    const heap = this.#heap
    this.#swap(0, heap.length - 1)
    const next = heap.pop() as { at: number, run: () => void }
    for (let i = 0; ;) {
      let least = i
      for (const child of [2 * i + 1, 2 * i + 2]) if (child < heap.length && this.#isBefore(child, least)) least = child
      if (least === i) return next
      this.#swap(i, least)
      i = least
    }
  }

  #isBefore (i: number, j: number): boolean {
    const [a, b] = [this.#heap[i], this.#heap[j]]
    return a.at < b.at || (a.at === b.at && a.order < b.order)
  }

  #swap (i: number, j: number): void {
    const heap = this.#heap
    const moved = heap[i]
    heap[i] = heap[j]
    heap[j] = moved
  }
}

/** A backend that works on so many requests at once, in the order they came, whether anybody still waits for them or not. */
export class Worker {
  slots: number
  /** Milliseconds for one. */
  takes: number
  readonly #time: Timeline
  readonly #queue: (() => void)[] = []
  #head = 0
  #busy = 0

  constructor (time: Timeline, slots: number, takes: number) {
    this.#time = time
    this.slots = slots
    this.takes = takes
  }

  /** Of what it could do in a second. */
  get capacity (): number {
    return this.slots * 1_000 / this.takes
  }

  get queueLength (): number {
    return this.#queue.length - this.#head
  }

  work (done: () => void): void {
    this.#queue.push(done)
    this.#go()
  }

  #go (): void {
    while (this.#busy < this.slots && this.queueLength > 0) {
      const done = this.#queue[this.#head++]
      this.#busy++
      this.#time.after(this.takes, () => {
        this.#busy--
        done()
        this.#go()
      })
    }
  }
}

/** What has become of the requests of a load. */
export interface Tally {
  sent: number
  /** Answered before anybody had given up. */
  good: number
  /** Refused at once, or after having waited too long. */
  shed: number
  late: number
  /** How long answers took, from when the request came. */
  times: number[]
  /** The most that have waited at once, before the backend and at it. */
  longestQueue: number
  longestBacklog: number
}

interface LoadSettings {
  worker: Worker
  /** `null`: everything goes to the backend at once. */
  limits: LimitsOptions | null
  /** Milliseconds after which nobody waits any more. */
  deadline?: number
  /** Who gives up then: the proxy, by a deadline that it knows, or the client, by leaving. */
  givesUp?: 'proxy' | 'client'
}

/** One backend behind limits, and requests that come whether or not earlier ones have been answered. */
export class Overload {
  readonly time: Timeline
  readonly worker: Worker
  readonly admission: Admission | null
  readonly concurrency: Concurrency | null
  tally: Tally
  readonly #deadline: number
  readonly #givesUp: 'proxy' | 'client'
  readonly #random = seeded(1)
  #gap = 0

  constructor (time: Timeline, { worker, limits, deadline = 1_000, givesUp = 'proxy' }: LoadSettings) {
    this.time = time
    this.worker = worker
    this.admission = limits === null ? null : new Admission(limits, 'limits')
    this.concurrency = this.admission === null ? null : this.admission.concurrency(time.now)
    this.#deadline = deadline
    this.#givesUp = givesUp
    this.tally = this.#none()
  }

  /** From now on so many come in a second, at random. */
  load (perSecond: number): void {
    const isRunning = this.#gap > 0
    this.#gap = perSecond === 0 ? 0 : 1_000 / perSecond
    if (!isRunning && perSecond > 0) this.#next()
  }

  /** Lets time pass, and tells what has become of the requests meanwhile. */
  async pass (milliseconds: number): Promise<Tally> {
    this.tally = this.#none()
    await this.time.pass(milliseconds)
    return this.tally
  }

  get limit (): number {
    return this.concurrency?.limit ?? Infinity
  }

  #none (): Tally {
    return { sent: 0, good: 0, shed: 0, late: 0, times: [], longestQueue: 0, longestBacklog: 0 }
  }

  #next (): void {
    if (this.#gap === 0) return
    this.#send()
    this.time.after(-Math.log(1 - this.#random()) * this.#gap, () => this.#next())
  }

  #send (): void {
    const { admission, concurrency, time, worker } = this
    const came = time.now
    let attempt: { begun: number, waiting: number } | null = null
    let over = false
    this.tally.sent++
    const end = (answered: 'well' | 'overloaded' | 'not') => {
      over = true
      if (attempt === null) return
      concurrency?.answer(time.now - attempt.begun, attempt.waiting, answered, time.now)
      concurrency?.end()
      admission?.leave()
    }
    const begin = () => {
      concurrency?.begin()
      attempt = { begun: time.now, waiting: concurrency?.wait() ?? 0 }
      worker.work(() => {
        if (over) return
        end('well')
        this.tally.good++
        this.tally.times.push(time.now - came)
      })
      this.tally.longestBacklog = Math.max(this.tally.longestBacklog, worker.queueLength)
    }
    const shed = () => {
      over = true
      this.tally.shed++
    }
    const entrant: Entrant = {
      priority: 0,
      turn: admission?.nextTurn() ?? 0,
      earlier: null,
      later: null,
      list: null,
      onTurn: () => {
        if (concurrency?.full === true) return false
        begin()
        return true
      },
      onShed: shed
    }
    if (this.#deadline !== Infinity) {
      time.after(this.#deadline, () => {
        if (over) return
        if (entrant.list !== null) {
          admission?.forget(entrant)
          return shed()
        }
        this.tally.late++
        end(this.#givesUp === 'proxy' ? 'overloaded' : 'not')
      })
    }
    if (admission === null || concurrency === null) return begin()
    const entered = admission.enter()
    if (entered && !concurrency.full) return begin()
    if (entered) admission.leave()
    if (!admission.wait(entrant)) return shed()
    this.tally.longestQueue = Math.max(this.tally.longestQueue, admission.queueLength)
    const wait = admission.longestWait(this.#givesUp === 'proxy' ? this.#deadline : Infinity)
    if (wait === Infinity) return
    time.after(wait, () => {
      if (over || entrant.list === null) return
      admission.forget(entrant)
      shed()
    })
  }
}

/** The time that a part of all did not exceed. */
export function percentile (times: readonly number[], part: number): number {
  const sorted = [...times].sort((a, b) => a - b)
  return sorted[Math.ceil(sorted.length * part) - 1]
}
