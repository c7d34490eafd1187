import type { SelectContext } from '../../types/index.ts'
import { keyReader } from '../balancer/index.ts'

/** The value of a request's cookie, as it stands there; `undefined` where there is none or it is empty. */
export function cookieOf (context: SelectContext, name: string): string | undefined {
  return keyReader({ cookie: name })(context)
}
