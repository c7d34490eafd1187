import type { TSchema } from '@sinclair/typebox'
import { MirrorOptionsSchema, SlowStartOptionsSchema } from '../types/index.ts'
import type { AffinityOptions, MirrorOptions, SlowStartOptions, UpstreamOptions, WeightOptions } from '../types/index.ts'
import { proxyError } from './errors.ts'
import { resolveOptions } from './options.ts'

const WEBSOCKET = 'websocket'

/** Which of the forwarded headers are written. */
export interface ForwardedSwitches {
  xForwarded: boolean
  standard: boolean
}

/** The options of a feature that `true` and nothing switch on as well. Throws `INVALID_OPTIONS`. */
export function optionsOf<Options> (schema: TSchema, options: Options | boolean | undefined, path: string): Options {
  return resolveOptions(schema, typeof options === 'object' ? options : {}, path)
}

export function forwardedOf (forwarded: UpstreamOptions['forwarded'] = true): Readonly<ForwardedSwitches> {
  return Object.freeze(typeof forwarded === 'boolean'
    ? { xForwarded: forwarded, standard: forwarded }
    : { xForwarded: forwarded.xForwarded ?? true, standard: forwarded.standard ?? true })
}

/** Throws `INVALID_OPTIONS`: browsers throw away what says `SameSite=None` without `Secure`. */
export function affinityOf (affinity: UpstreamOptions['affinity'], path: string): AffinityOptions | false {
  if (affinity === undefined || affinity === false) return false
  if (affinity.sameSite === 'none' && affinity.secure === false) throw proxyError('INVALID_OPTIONS', undefined, `${path}.affinity.secure must not be false where sameSite is 'none'`)
  return affinity
}

/** Throws `INVALID_OPTIONS`. */
export function weightsOf (weights: UpstreamOptions['weights'], path: string): Required<WeightOptions> | false {
  if (weights === undefined || weights === false) return false
  const { min, max } = weights as Required<WeightOptions>
  if (min > max) throw proxyError('INVALID_OPTIONS', undefined, `${path}.weights.min must be at most weights.max, ${max}, and is ${min}`)
  return weights as Required<WeightOptions>
}

/** Throws `INVALID_OPTIONS`. */
export function slowStartOf (slowStart: UpstreamOptions['slowStart'], path: string): Required<SlowStartOptions> | false {
  if (slowStart === undefined || slowStart === false) return false
  return resolveOptions(SlowStartOptionsSchema, slowStart === true ? {} : slowStart, `${path}.slowStart`)
}

/** Copies as an option wants them, with nothing left out; `null` for none. Throws `INVALID_OPTIONS`. */
export function mirrorOf (option: MirrorOptions | false | undefined, path = 'mirror'): Required<MirrorOptions> | null {
  return option === undefined || option === false ? null : resolveOptions<Required<MirrorOptions>>(MirrorOptionsSchema, option, path)
}

/** Protocols that connections may be switched to, with WebSocket or without. */
export function withWebSocket (upgrades: ReadonlySet<string>, websocket: boolean): ReadonlySet<string> {
  return new Set([...upgrades].filter(protocol => protocol !== WEBSOCKET).concat(websocket ? [WEBSOCKET] : []))
}
