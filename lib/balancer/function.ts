import type { LoadBalancer, SelectFunction } from '../../types/index.ts'

/** A function of the user's own, as a balancer. */
export class FunctionBalancer implements LoadBalancer {
  readonly type = 'function'
  readonly select: SelectFunction

  constructor (select: SelectFunction) {
    this.select = select
  }

  /** A function has nothing but itself to be asked. */
  peek (...asked: Parameters<SelectFunction>): ReturnType<SelectFunction> {
    return this.select(...asked)
  }
}
