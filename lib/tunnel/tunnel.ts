import type { Socket } from 'node:net'
import type { Clock, Timer } from '../../types/index.ts'
import type { Deadlined } from '../deadlines.ts'
import { FrameTracker, goingAway } from './frames.ts'
import type { Tunnels } from './tunnels.ts'
import { Way, type Passage } from './way.ts'

/** Milliseconds for a WebSocket whose ends have been told to close to do so. */
const CLOSING = 2_000

/** What a tunnel is told when it opens. */
export interface TunnelSetup {
  client: Socket
  backend: Socket
  /** What came of the client before. */
  early: readonly Buffer[]
  protocol: string
  /** Milliseconds without a byte either way after which it is closed, whole or half closed; 0 for never. */
  timeout: number
  halfClosedTimeout: number
  /** The backend that it goes to, as `isOn()` knows it. */
  target: object
  /** Called once, when both connections have closed. */
  onEnd: (tunnel: Tunnel) => void
}

/** Two connections that are one: whatever protocol they have been switched to, bytes pass as they are. */
export class Tunnel implements Deadlined, Passage {
  deadline = Infinity
  previous: Deadlined | null = null
  next: Deadlined | null = null
  readonly #tunnels: Tunnels
  readonly #clock: Clock
  readonly #setup: TunnelSetup
  readonly #up: Way
  readonly #down: Way
  readonly #isWebSocket: boolean
  #timeout: number
  #timer: Timer | null = null
  #leaving = false
  /** When its ends will be asked to close, on the clock's scale. */
  #leavesAt = Infinity
  /** Ends that have closed. */
  #closed = 0

  constructor (setup: TunnelSetup, tunnels: Tunnels) {
    const { client, backend, early } = setup
    this.#setup = setup
    this.#tunnels = tunnels
    this.#clock = tunnels.clock
    this.#isWebSocket = setup.protocol === 'websocket'
    this.#timeout = setup.timeout
    this.#up = new Way(client, backend, this.#isWebSocket ? new FrameTracker() : null, this)
    this.#down = new Way(backend, client, this.#isWebSocket ? new FrameTracker() : null, this)
    // Either may say that it is done while the other is not.
    client.allowHalfOpen = backend.allowHalfOpen = true
    tunnels.opened(this)
    for (const [end, other] of [[client, backend], [backend, client]]) {
      let failed = false
      end.setTimeout(0).setNoDelay(true)
      end.on('error', () => { failed = true })
      end.on('close', () => this.#onClose(other, failed))
    }
    this.#touch()
    this.#down.start()
    this.#up.start(early)
    // One of them may have closed before anybody listened.
    for (const [end, other] of [[client, backend], [backend, client]]) if (end.destroyed && end.closed) this.#onClose(other, true)
  }

  /** Bytes that have come of the client, and of the backend. */
  get bytesReceived (): number {
    return this.#up.bytes
  }

  get bytesSent (): number {
    return this.#down.bytes
  }

  isOn (backend: object): boolean {
    return this.#setup.target === backend
  }

  /** Closes it at once, as after a failure. */
  giveUp (): void {
    reset(this.#setup.client)
    reset(this.#setup.backend)
  }

  onDeadline (): void {
    // Nothing has passed for too long, or they have not closed as they were told to; who is still there sees an end.
    this.#setup.client.destroy()
    this.#setup.backend.destroy()
  }

  /** Asks both ends of a WebSocket to close, within so long. What other protocols say of an end only they know. */
  leave (within: number): void {
    const at = this.#clock.now() + within
    if (!this.#isWebSocket || this.#leaving || this.#leavesAt <= at) return
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#leavesAt = at
    this.#timer = this.#clock.setTimeout(() => this.#sayGoodbye(), within)
    this.#timer.ref?.()
  }

  /** It is not to close after all, unless its ends have been asked already. */
  stay (): void {
    if (this.#leaving || this.#timer === null) return
    this.#clock.clearTimeout(this.#timer)
    this.#timer = null
    this.#leavesAt = Infinity
  }

  #sayGoodbye (): void {
    this.#leaving = true
    this.#timer = this.#clock.setTimeout(() => this.onDeadline(), CLOSING)
    this.#timer.ref?.()
    this.#up.endWith(goingAway(true))
    this.#down.endWith(goingAway(false))
  }

  onPassed (): void {
    this.#touch()
  }

  onSaid ({ to }: Way): void {
    // Its answer to that may be there already, or never come.
    const back = this.#from(to)
    if (back.closed || back.ended) to.end()
  }

  onEnded (way: Way): void {
    if (this.#leaving) {
      // It has closed as it was told to; by itself, it is still to hear the rest of a frame.
      if (this.#to(way.from).said) way.from.end()
      return
    }
    way.to.end()
    this.#hurry()
  }

  /** One end has said that it is done. */
  #hurry (): void {
    this.#timeout = this.#setup.halfClosedTimeout
    this.#touch()
  }

  #from (end: Socket): Way {
    return end === this.#setup.client ? this.#up : this.#down
  }

  #to (end: Socket): Way {
    return end === this.#setup.client ? this.#down : this.#up
  }

  #touch (): void {
    this.deadline = this.#timeout > 0 ? this.#clock.now() + this.#timeout : Infinity
  }

  #onClose (other: Socket, failed: boolean): void {
    if (++this.#closed < 2) {
      // What has been written to the other still goes out, unless this one broke.
      if (failed) reset(other)
      else other.destroySoon()
      this.#hurry()
      return
    }
    if (this.#closed > 2) return
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#tunnels.closed(this)
    this.#setup.onEnd(this)
  }
}

/** Closes a connection so that nobody takes that for a proper end. */
function reset (socket: Socket): void {
  try {
    if (!socket.destroyed) socket.resetAndDestroy()
  } catch {
    // Only TCP can be reset.
    socket.destroy()
  }
}
