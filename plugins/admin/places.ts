import type { FastifyInstance } from 'fastify'
import { proxyError } from '../../lib/errors.ts'
import type { ProxyManager } from '../../lib/proxy-manager.ts'

/** Tells where the options of a resource are from. */
export const ORIGIN: unique symbol = Symbol('rockstar-proxy.origin')

/** Where options are from. */
export interface Origin {
  /** Whether the option `admin` has mounted the routes, and not the application itself. */
  mounted: boolean
  /** What errors call the options. */
  path: string
  /** What they call those that one resource alone has, where that is something else. */
  own?: string
}

/** Options that tell so. */
export interface Originating {
  [ORIGIN]?: Origin
}

/** A route of operators that there is. */
interface Held {
  proxy: ProxyManager
  mounted: boolean
  /** Whether the application has registered the same itself since. */
  overtaken: boolean
}

/** How a route is to be added where there may be one already. */
export interface Place {
  constraints?: { host: RegExp }
  /** Whether another stands before it by now. */
  isOvertaken (): boolean
}

/** By server, the routes of operators by method and path. */
const places = new WeakMap<object, Map<string, Held>>()

/**
 * Finds a place for a route: `null` where it is not to be added at all. What an application registers itself comes first, be it before or
 * after the option `admin`: it has its own ideas of who may. Throws `INVALID_OPTIONS` where the route of another proxy stands there.
 */
export function placeOf (app: FastifyInstance, method: string, url: string, { mounted, path }: Origin, proxy: ProxyManager): Place | null {
  const held = heldBy(app)
  const key = `${method} ${url}`
  const taken = app.hasRoute({ method, url })
  const other = taken ? held.get(key) : undefined
  if (other !== undefined && (other.proxy !== proxy || (mounted && other.mounted))) {
    throw proxyError('INVALID_OPTIONS', undefined, `${path}.prefix must be one of its own for each registration, and ${url} is there already`)
  }
  if (mounted && taken) return null
  const own: Held = { proxy, mounted, overtaken: false }
  held.set(key, own)
  const place: Place = { isOvertaken: () => own.overtaken }
  if (other?.mounted !== true) return place
  // The router prefers a route that says more of the request than another: any host is more than nothing. One that has none meets the other.
  other.overtaken = true
  return { ...place, constraints: { host: /^/ } }
}

/** The paths of all routes of operators that a server has. */
export function pathsOf (app: FastifyInstance): Set<string> {
  return new Set([...heldBy(app).keys()].map(key => key.slice(key.indexOf(' ') + 1)))
}

function heldBy ({ server }: FastifyInstance): Map<string, Held> {
  const held = places.get(server) ?? new Map<string, Held>()
  places.set(server, held)
  return held
}
