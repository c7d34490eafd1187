import type { StageTimeouts } from '../../types/index.ts'

/** What an upstream counts of what is done so that requests succeed, or are kept out. */
export class Tallies {
  retries = 0
  retriesDenied = 0
  hedges = 0
  hedgesWon = 0
  queued = 0
  shed = 0
  fallbacks = 0
  mirrored = 0
  mirrorsSkipped = 0
  readonly timeouts: StageTimeouts = { queue: 0, connect: 0, send: 0, wait: 0, stream: 0, client: 0, request: 0 }

  reset (): void {
    this.retries = this.retriesDenied = this.hedges = this.hedgesWon = 0
    this.queued = this.shed = this.fallbacks = this.mirrored = this.mirrorsSkipped = 0
    for (const stage in this.timeouts) this.timeouts[stage as keyof StageTimeouts] = 0
  }
}
