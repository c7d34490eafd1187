import type { IncomingMessage } from 'node:http'
import type { Clock } from '../../types/index.ts'
import type { Deadlined, Deadlines } from '../deadlines.ts'
import type { Upstream } from '../upstream.ts'
import type { RequestBody } from './request-body.ts'
import { isHttp2 } from './wire.ts'

/** Milliseconds for the rest of a request that has been answered already. */
const LONGEST = 10_000

/**
 * Reads the rest of a request that has been answered before its end, so that the client sees the answer and the next request begins
 * where it should.
 */
class Linger implements Deadlined {
  deadline: number
  previous: Deadlined | null = null
  next: Deadlined | null = null
  readonly #raw: IncomingMessage

  constructor (raw: IncomingMessage, clock: Clock, deadlines: Deadlines) {
    this.#raw = raw
    this.deadline = clock.now() + LONGEST
    const { socket } = raw
    const done = () => {
      socket.off('close', done)
      deadlines.remove(this)
    }
    raw.once('end', done).once('close', done)
    // Once its answer has ended the connection, Node tells a request nothing more.
    socket.once('close', done)
    // After the body has let go of it, and any stream that a hook has put between.
    setImmediate(() => raw.unpipe().resume())
  }

  isOn (): boolean {
    return false
  }

  giveUp (): void {
    this.#raw.destroy()
  }

  onDeadline (): void {
    this.#raw.destroy()
  }
}

/** Lets go of a body that nobody wants any more, and reads away what is still to come of it. */
export function readRest (body: RequestBody, raw: IncomingMessage, { clock, deadlines }: Upstream): void {
  const incoming = !body.ended
  body.close()
  if (incoming && !raw.destroyed && !isHttp2(raw)) deadlines.add(new Linger(raw, clock, deadlines))
}
