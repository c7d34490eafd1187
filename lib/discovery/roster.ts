import type { BackendChanges, Clock } from '../../types/index.ts'
import { Backend } from '../backend.ts'
import { changesOf, isSamePlace, type Said } from './said.ts'

/** The upstream whose backends are found. */
export interface Listing {
  /** The backend that has an id, if any. */
  known (id: string): Backend | undefined
  /** Lists one. Throws where it cannot be. */
  enlist (backend: Backend): void
  update (id: string, changes: BackendChanges): Backend
  /** Drains one and takes it out. */
  withdraw (backend: Backend, timeout: number): Promise<void>
  /** Whether somebody drains one by hand: until it has gone, or is wanted back, nothing is to take its place. */
  isHeld (backend: Backend): boolean
  /** Lets one that is being withdrawn serve again; false where it is too late. */
  reinstate (backend: Backend): boolean
  /** Drains one and lists another under its id at once. */
  replace (old: Backend, next: Backend, timeout: number): void
  /** Does several things whose effect is worked out once. */
  batch (work: () => void): void
}

/** One backend that was found. */
interface Entry {
  backend: Backend
  said: Said
  owner: object
  /** Whether it is being taken out as it is not found any more. */
  leaving: boolean
}

/**
 * The backends that were found, compared with what is found now: those that are the same keep all they have learned. What was done by hand holds: what
 * was changed is not changed back, one that was taken out comes back only after it was not found for once, and one that is drained only when it has gone.
 */
export class Roster {
  readonly #listing: Listing
  readonly #clock: Clock
  readonly #drainTimeout: number
  readonly #entries = new Map<string, Entry>()

  constructor (listing: Listing, clock: Clock, drainTimeout: number) {
    this.#listing = listing
    this.#clock = clock
    this.#drainTimeout = drainTimeout
  }

  /** Whether anything that was found there is listed. */
  has (owner: object): boolean {
    return [...this.#entries.values()].some(entry => entry.owner === owner)
  }

  /**
   * Takes over what is found now.
   * @param owner who has found it
   * @param onUnreachable called when a connection to one of them cannot be made
   * @returns what was wrong with one of them, if anything
   */
  apply (owner: object, found: readonly Said[], onUnreachable: () => void): unknown {
    let fault: unknown
    this.#listing.batch(() => {
      for (const said of found) {
        try {
          this.#take(owner, said, onUnreachable)
        } catch (error) {
          fault ??= error
        }
      }
      const ids = new Set(found.map(({ id }) => id))
      for (const entry of [...this.#entries.values()]) if (entry.owner === owner && !ids.has(entry.said.id)) this.#lose(entry)
    })
    return fault
  }

  #take (owner: object, said: Said, onUnreachable: () => void): void {
    const { id } = said
    const entry = this.#entries.get(id)
    const listed = this.#listing.known(id)
    if (entry === undefined) {
      // One that was added by hand keeps its id.
      if (listed === undefined) this.#enter(owner, said, onUnreachable, backend => this.#listing.enlist(backend))
      return
    }
    const { backend } = entry
    const here = listed === backend
    const same = isSamePlace(entry.said, said)
    if (entry.leaving) {
      if (here && this.#listing.isHeld(backend)) return
      if (same && here && this.#listing.reinstate(backend)) entry.leaving = false
      else return this.#enter(owner, said, onUnreachable, next => here ? this.#listing.replace(backend, next, this.#drainTimeout) : this.#listing.enlist(next))
    }
    if (!here || backend.draining) return
    if (!same) return this.#enter(owner, said, onUnreachable, next => this.#listing.replace(backend, next, this.#drainTimeout))
    const changes = changesOf(backend, entry.said, said)
    entry.said = said
    if (Object.keys(changes).length === 0) return
    // Of changes, what is left out stays as it is.
    if ('zone' in changes && changes.zone === undefined) backend.zone = undefined
    this.#listing.update(id, changes)
  }

  #enter (owner: object, said: Said, onUnreachable: () => void, list: (backend: Backend) => void): void {
    const { id, address, options } = said
    const backend = new Backend(options, this.#clock.wall(), 'discovery', { id, address })
    list(backend)
    const { connectFailed } = backend
    backend.connectFailed = tried => {
      connectFailed?.(tried)
      onUnreachable()
    }
    this.#entries.set(id, { backend, said, owner, leaving: false })
  }

  #lose (entry: Entry): void {
    const { backend, said: { id } } = entry
    if (entry.leaving) return
    // Taken out by hand, and not found any more: forgotten, so that it may be found again.
    if (this.#listing.known(id) !== backend) {
      this.#entries.delete(id)
      return
    }
    entry.leaving = true
    this.#listing.withdraw(backend, this.#drainTimeout).finally(() => {
      if (entry.leaving && this.#entries.get(id) === entry) this.#entries.delete(id)
    }).catch(() => {})
  }
}
