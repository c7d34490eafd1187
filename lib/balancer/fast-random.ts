import { getRandomValues } from 'node:crypto'

const RANGE = 0x1_0000_0000
const state = getRandomValues(new Int32Array(4))

/** 32 bits of chance, as a number with a sign. Not for secrets. Source: Chris Doty-Humphrey's sfc32. */
function fastBits (): number {
  const a = state[0]
  const b = state[1]
  const c = state[2]
  const counter = state[3]
  const next = (a + b + counter) | 0
  state[0] = b ^ (b >>> 9)
  state[1] = (c + (c << 3)) | 0
  state[2] = ((c << 21 | c >>> 11) + next) | 0
  state[3] = (counter + 1) | 0
  return next
}

/** A number of at least 0 and below 1, like `Math.random()`. */
export function fastRandom (): number {
  return (fastBits() >>> 0) / RANGE
}

/**
 * Where the policies have their chance from: 32 bits a call. V8 boxes most numbers that a function returns, 16 bytes and 11 ns for each
 * `Math.random()`, but no whole ones of 32 bits with a sign (bench/balancers.ts).
 */
export function bitsOf (random: () => number): () => number {
  return random === fastRandom ? fastBits : () => Math.floor(random() * RANGE) | 0
}

/** A number of at least 0 and below `limit`, from 32 bits. */
export function scaled (bits: number, limit: number): number {
  return (bits >>> 0) / RANGE * limit
}
