import type { Circuit, CircuitBreaker, CircuitState } from '../../types/index.ts'

/** Lets everything pass. */
export const alwaysClosed: Circuit = Object.freeze({
  state: 'closed' as CircuitState,
  retryAfter: 0,
  acquire: () => 0,
  settle: () => {},
  open: () => {},
  close: () => {}
})

/** The breaker where none is wanted. */
export const noBreaker: CircuitBreaker = Object.freeze({
  type: 'none',
  createCircuit: () => alwaysClosed,
  getState: () => 'closed' as CircuitState,
  reset: () => {}
})
