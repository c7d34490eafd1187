import type { Backend } from '../../../lib/backend.ts'
import type { LoadBalancer } from '../../../types/index.ts'
import type { FakeClock } from '../../helpers/clock.ts'
import { asking, choose, outcomeOf } from './suite.ts'

interface Simulation {
  balancer: LoadBalancer
  available: readonly Backend[]
  clock: FakeClock
  /** Milliseconds that a request takes on the backend of an index, whatever else it does. */
  takes: (index: number) => number
  requests: number
  /** Requests under way at any time. */
  concurrency: number
}

/** Sends requests in a time of its own, each as soon as another ends; returns how many each backend got. */
export function simulate ({ balancer, available, clock, takes, requests, concurrency }: Simulation): number[] {
  const counts = available.map(() => 0)
  const send = (i: number) => {
    const backend = choose(balancer, available, asking(i)) as Backend
    const time = takes(available.indexOf(backend))
    counts[available.indexOf(backend)]++
    backend.counters.begin()
    clock.setTimeout(() => {
      backend.settle('successful', time)
      balancer.settle?.(backend, outcomeOf({ headTime: time, responseTime: time }))
      if (sent < requests) send(sent++)
    }, time)
  }
  let sent = 0
  while (sent < concurrency) send(sent++)
  while (clock.timers > 0) clock.advance(1)
  return counts
}
