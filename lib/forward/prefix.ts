/** How a route's prefix becomes another one on the way to the backend. */
export interface PrefixRule {
  /** Segments of the prefix: names of parameters, `null` for those that are fixed. */
  segments: readonly (string | null)[]
  /** What replaces them, without a slash at its end; `:name` stands for a parameter's text. */
  rewritten: string
  /** Whether the router takes several slashes for one. */
  mergeSlashes: boolean
}

/** A path whose prefix was replaced, and by what. */
export interface ReplacedPrefix {
  path: string
  /** The prefix as the client wrote it. */
  outer: string
  /** The prefix as the backend sees it. */
  inner: string
}

/** Prepares the replacement of `prefix` by `rewritePrefix`. */
export function prefixRule (prefix: string, rewritePrefix: string, mergeSlashes: boolean): PrefixRule {
  const segments = prefix.split('/').filter(segment => segment !== '')
    .map(segment => segment.startsWith(':') ? segment.slice(1).replace(/\(.*$/, '') : null)
  return { segments, rewritten: rewritePrefix.replace(/\/+$/, ''), mergeSlashes }
}

/**
 * Replaces the prefix of a path. The router has matched it already, in whatever encoding it came, so that
 * its segments only need to be counted, and every byte behind them stays as it is.
 */
export function replacePrefix (path: string, { segments, rewritten, mergeSlashes }: PrefixRule): ReplacedPrefix {
  const query = path.indexOf('?')
  const end = query === -1 ? path.length : query
  let at = 0
  const texts = new Map<string, string>()
  for (let i = 0; i < segments.length && at < end; i++) {
    at++
    if (mergeSlashes) while (path.charCodeAt(at) === 0x2f) at++
    let next = path.indexOf('/', at)
    if (next === -1 || next > end) next = end
    const name = segments[i]
    if (name !== null) texts.set(`:${name}`, path.slice(at, next))
    at = next
  }
  const inner = texts.size === 0 ? rewritten : rewritten.split('/').map(part => texts.get(part) ?? part).join('/')
  const replaced = inner + path.slice(at)
  return { path: replaced.charCodeAt(0) === 0x2f ? replaced : `/${replaced}`, outer: path.slice(0, at), inner }
}
