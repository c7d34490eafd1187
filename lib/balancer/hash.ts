import xxhash, { type XXHashAPI } from 'xxhash-wasm'

/** Texts up to so many characters are hashed without anything being allocated. */
const SHORT = 64
const bytes = new Uint8Array(SHORT)
const views = Array.from({ length: SHORT + 1 }, (_, length) => bytes.subarray(0, length))

let xxh: XXHashAPI | undefined

/** Resolves when texts can be hashed. The plugin waits for it. */
export const hashReady: Promise<void> = xxhash().then(api => { xxh = api })
// Who never hashes need not hear that it failed.
hashReady.catch(() => {})

/**
 * xxHash, 32 bits, of a text's UTF-8: the same in every process, on every machine. Like all hashes here a number with a sign: as V8
 * keeps those, and those alone, without allocating. Throws before `hashReady`.
 */
export function hashText (text: string, seed = 0): number {
  if (xxh === undefined) throw new Error('The hash function of rockstar-proxy is not loaded yet: await hashReady before a load balancer that hashes is used')
  const { length } = text
  if (length > SHORT) return xxh.h32(text, seed) | 0
  // What TextEncoder returns is an object.
  let all = 0
  for (let i = 0; i < length; i++) {
    const code = text.charCodeAt(i)
    all |= code
    bytes[i] = code
  }
  return (all < 0x80 ? xxh.h32Raw(views[length], seed) : xxh.h32(text, seed)) | 0
}

/** A hash as a number of at least 0 and below 1. */
export function fractionOf (hash: number): number {
  return (hash >>> 0) / 0x1_0000_0000
}

/** Another hash from one, and from the number of it. Source: the finalizer of MurmurHash3. */
export function rehash (hash: number, number: number): number {
  let mixed = hash + Math.imul(number, 0x9e3779b1)
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return mixed ^ (mixed >>> 16)
}

/** One hash of three; that of two backends is the same for no key unless both of their hashes are. */
export function combine (hash: number, first: number, second: number): number {
  let mixed = Math.imul(hash ^ first, 0x85ebca6b)
  mixed = Math.imul((mixed ^ (mixed >>> 15)) + second, 0xc2b2ae35)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0x27d4eb2f)
  return mixed ^ (mixed >>> 16)
}
