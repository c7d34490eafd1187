import type { TunnelMetrics, Clock } from '../../types/index.ts'
import type { Deadlines } from '../deadlines.ts'
import type { Tunnel } from './tunnel.ts'

/** Milliseconds from one WebSocket that is closed by a drain to the next: their clients come back, elsewhere, one after the other. */
const PACE = 10

/** The tunnels of one upstream, and what has passed through them. */
export class Tunnels {
  readonly clock: Clock
  readonly #deadlines: Deadlines
  readonly #random: () => number
  readonly #open = new Set<Tunnel>()
  #total = 0
  /** Of those that have closed. */
  #received = 0
  #sent = 0

  constructor (clock: Clock, deadlines: Deadlines, random: () => number) {
    this.clock = clock
    this.#deadlines = deadlines
    this.#random = random
  }

  opened (tunnel: Tunnel): void {
    this.#total++
    this.#open.add(tunnel)
    this.#deadlines.add(tunnel)
  }

  closed (tunnel: Tunnel): void {
    this.#open.delete(tunnel)
    this.#deadlines.remove(tunnel)
    this.#received += tunnel.bytesReceived
    this.#sent += tunnel.bytesSent
  }

  /** Has WebSockets close, each at a moment of its own in the first half of a time. @param backend only those on one */
  leave (within: number, backend?: object): void {
    const leaving = [...this.#open].filter(tunnel => backend === undefined || tunnel.isOn(backend))
    const spread = Math.min(within / 2, PACE * leaving.length)
    for (const tunnel of leaving) tunnel.leave(this.#random() * spread)
  }

  /** Those on a backend are not to close after all, where they have not been told yet. */
  stay (backend: object): void {
    for (const tunnel of this.#open) if (tunnel.isOn(backend)) tunnel.stay()
  }

  metrics (): TunnelMetrics {
    let bytesReceived = this.#received
    let bytesSent = this.#sent
    for (const tunnel of this.#open) {
      bytesReceived += tunnel.bytesReceived
      bytesSent += tunnel.bytesSent
    }
    return { open: this.#open.size, total: this.#total, bytesReceived, bytesSent }
  }

  /** Sets to zero what has been counted, but not what is open. */
  reset (): void {
    this.#total = this.#open.size
    this.#received = this.#sent = 0
    for (const tunnel of this.#open) {
      this.#received -= tunnel.bytesReceived
      this.#sent -= tunnel.bytesSent
    }
  }
}
