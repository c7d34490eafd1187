import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { Admission, Entrant } from '../admission/index.ts'

/** Who comes to a place. */
interface Occupant {
  /** There may be room: false when there is none for it after all. */
  onTurn (): boolean
  /** It has been refused, or has waited in vain. */
  onShed (): void
}

/** An exchange before the door, in the queue, or inside. */
export class Place implements Entrant {
  priority = 0
  turn = -1
  earlier: Place | null = null
  later: Place | null = null
  list: object | null = null
  /** By when it must have been let in, on the clock's scale. */
  until = Infinity
  #inside = false
  readonly #admission: Admission
  readonly #occupant: Occupant

  constructor (admission: Admission, occupant: Occupant) {
    this.#admission = admission
    this.#occupant = occupant
  }

  /** Goes in, if there is room. */
  enter (): boolean {
    this.#inside = this.#admission.enter()
    return this.#inside
  }

  /** Whether it has never waited. */
  get isNew (): boolean {
    return this.turn === -1
  }

  get waiting (): boolean {
    return this.list !== null
  }

  /** Waits until there is room, outside. False where there is no place to wait. */
  wait (now: number, answerBy: number, request: FastifyRequest | undefined, log: FastifyBaseLogger | undefined): boolean {
    const admission = this.#admission
    this.leave()
    if (this.isNew) {
      this.turn = admission.nextTurn()
      this.priority = this.#admission.priorityFor(request, log)
    }
    this.until = now + admission.longestWait(answerBy - now)
    return admission.wait(this)
  }

  onTurn (): boolean {
    // First, as it may be over at once.
    this.#inside = true
    const stays = this.#occupant.onTurn()
    if (!stays) this.#inside = false
    return stays
  }

  onShed (): void {
    this.#occupant.onShed()
  }

  /** Gives up its place, wherever that is. */
  leave (): void {
    this.#admission.forget(this)
    if (this.#inside) this.#admission.leave()
    this.#inside = false
  }
}
