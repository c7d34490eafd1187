import type { ClientHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import type { Clock, Timer } from '../../types/index.ts'

/** Milliseconds without a byte from the backend after which it is asked whether it is still there, when a request is sent or given up. */
const SILENCE = 10_000
/** Milliseconds for its answer; where other bytes come, that is behind them, and waited for a few times as long. */
const PATIENCE = 15_000
const MOST_ROUNDS = 4
/** Periods of silence after which it is asked while streams are open, though nothing happens. gRPC servers take more than one PING in 5 minutes for abuse. */
const LONG_SILENCE = 31

/** The session that is watched. */
export interface LivenessOwner {
  /** Requests on it. */
  readonly active: number
  destroy (error: Error): void
}

/**
 * Finds out that a session is dead though nobody has closed it: a machine without power, a firewall that forgets; also one of which nghttp2
 * has given up what it could not read, for then Node reads no more, and does not say so.
 */
export class Http2Liveness {
  readonly #session: ClientHttp2Session
  readonly #socket: Socket
  readonly #clock: Clock
  readonly #owner: LivenessOwner
  #watch: Timer | null = null
  #asked: Timer | null = null
  #heard = 0
  /** Periods of silence so far. */
  #silent = 0
  #stopped = false

  constructor (session: ClientHttp2Session, socket: Socket, clock: Clock, owner: LivenessOwner) {
    this.#session = session
    this.#socket = socket
    this.#clock = clock
    this.#owner = owner
  }

  /** A request is sent. @param idle milliseconds that there was none */
  onUse (idle: number): void {
    if (idle >= SILENCE || this.#silent > 0) this.#ask()
    this.#watch ??= this.#clock.setTimeout(() => this.#look(), SILENCE)
  }

  /** A request was given up that nothing had come for. */
  onDoubt (): void {
    if (this.#silent > 0) this.#ask()
  }

  stop (): void {
    this.#stopped = true
    for (const timer of [this.#watch, this.#asked]) if (timer !== null) this.#clock.clearTimeout(timer)
  }

  #look (): void {
    this.#watch = null
    if (this.#stopped) return
    const { bytesRead } = this.#socket
    this.#silent = bytesRead === this.#heard ? this.#silent + 1 : 0
    this.#heard = bytesRead
    if (this.#silent > 0 && this.#silent % LONG_SILENCE === 0) this.#ask()
    // Where nothing is sent and nothing comes, nobody waits for anything.
    if (this.#owner.active > 0) this.#watch = this.#clock.setTimeout(() => this.#look(), SILENCE)
    else this.#silent = 0
  }

  #ask (): void {
    if (this.#asked !== null || this.#stopped || this.#session.destroyed) return
    this.#await(1)
    this.#session.ping(error => {
      if (error !== null || this.#asked === null) return
      this.#clock.clearTimeout(this.#asked)
      this.#asked = null
      this.#silent = 0
    })
  }

  #await (round: number): void {
    const before = this.#socket.bytesRead
    this.#asked = this.#clock.setTimeout(() => {
      this.#asked = null
      if (this.#socket.bytesRead !== before && round < MOST_ROUNDS) this.#await(round + 1)
      else this.#owner.destroy(new Error(`the backend has not answered a PING for ${round * PATIENCE} ms`))
    }, PATIENCE)
  }
}
