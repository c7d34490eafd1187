import { Backend } from '../../../lib/backend.ts'
import { hashReady } from '../../../lib/balancer/index.ts'
import type { Selection } from '../../../lib/selection/index.ts'
import type { Backend as PublicBackend, BackendOptions, LoadBalancer, SelectContext } from '../../../types/index.ts'
import { contextOf, type Asked } from '../balancer/suite.ts'

await hashReady

/** A backend and the state it is in. */
export interface Given extends Partial<BackendOptions> {
  healthy?: boolean
  ejected?: boolean
  draining?: boolean
}

export function backendOf (id: string, { healthy = true, ejected = false, draining = false, ...options }: Given = {}): Backend {
  return Object.assign(new Backend({ id, url: 'http://127.0.0.1:1', ...options }, 0), { healthy, ejected, draining })
}

/** Backends by their ids. */
export function backendsOf (given: Record<string, Given>): Backend[] {
  return Object.entries(given).map(([id, options]) => backendOf(id, options))
}

/** So many backends, the first of them available. */
export function partly (available: number, count: number, given: Given = {}, name = 'b'): Backend[] {
  return Array.from({ length: count }, (_, i) => backendOf(`${name}${i}`, { ...given, healthy: i < available }))
}

export function idsOf (backends: Iterable<PublicBackend>): string {
  return [...backends].map(({ id }) => id).join(' ')
}

/** A choice to be made. */
export function selectionOf (asked: Asked = {}): Selection {
  return { ...contextOf(asked), balancer: null, because: 'balancer', candidates: null, kept: undefined }
}

/** A balancer without `fork()` that writes down what it is told. */
export class Plain implements LoadBalancer {
  readonly type = 'plain'
  readonly rebuilt: (readonly PublicBackend[])[] = []
  readonly asked: (readonly PublicBackend[])[] = []
  choose: (available: readonly PublicBackend[], context: SelectContext) => PublicBackend | undefined = available => available[0]

  select (available: readonly PublicBackend[], context: SelectContext): PublicBackend | undefined {
    this.asked.push(available)
    return this.choose(available, context)
  }

  rebuild (available: readonly PublicBackend[]): void {
    this.rebuilt.push(available)
  }
}

/** Numbers that come in turn, again and again. */
export function turns (...numbers: number[]): () => number {
  let i = 0
  return () => numbers[i++ % numbers.length]
}
