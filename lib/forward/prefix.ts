/** How a route's prefix becomes another one on the way to the backend. */
export interface PrefixRule {
  /** Segments of the prefix: how to find parameters in them, `null` for those that are fixed. */
  segments: readonly (SegmentRule | null)[]
  /** What replaces them, without a slash at its end; `:name` stands for a parameter's text. */
  rewritten: string
  readonly router: RouterWays
}

/** A segment of a prefix that has parameters. */
export interface SegmentRule {
  pattern: RegExp
  names: string[]
}

/** What the router takes for the same. */
export interface RouterWays {
  /** Several slashes for one. */
  mergeSlashes: boolean
  /** A semicolon for the question mark. */
  semicolonDelimiter: boolean
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
export function prefixRule (prefix: string, rewritePrefix: string, router: RouterWays): PrefixRule {
  const segments = prefix.split('/').filter(segment => segment !== '').map(segmentRule)
  return { segments, rewritten: rewritePrefix.replace(/\/+$/, ''), router }
}

/** `:id`, and find-my-way's `:lat-:lng` and `:file(^\\d+)`. */
function segmentRule (segment: string): SegmentRule | null {
  const names: string[] = []
  const pattern = segment.replaceAll(/:(\w+)(?:\((?:[^()]|\([^()]*\))*\))?|[^\w:]/g, (text, name: string | undefined) => {
    if (name === undefined) return `\\${text}`
    names.push(name)
    return '(.*?)'
  })
  return names.length === 0 ? null : { pattern: new RegExp(`^${pattern}$`, 's'), names }
}

/**
 * Replaces the prefix of a path. The router has matched it already, in whatever encoding it came, so that
 * its segments only need to be counted, and every byte behind them stays as it is.
 */
export function replacePrefix (path: string, { segments, rewritten, router }: PrefixRule): ReplacedPrefix {
  const { mergeSlashes, semicolonDelimiter } = router
  const query = semicolonDelimiter ? path.search(/[?;]/) : path.indexOf('?')
  const end = query === -1 ? path.length : query
  let at = 0
  const texts = new Map<string, string>()
  for (let i = 0; i < segments.length && at < end; i++) {
    at++
    if (mergeSlashes) while (path.charCodeAt(at) === 0x2f) at++
    let next = path.indexOf('/', at)
    if (next === -1 || next > end) next = end
    const rule = segments[i]
    if (rule !== null) rule.pattern.exec(path.slice(at, next))?.slice(1).forEach((text, k) => texts.set(`:${rule.names[k]}`, text))
    at = next
  }
  const inner = texts.size === 0 ? rewritten : rewritten.split('/').map(part => texts.get(part) ?? part).join('/')
  const replaced = inner + path.slice(at)
  return { path: replaced.charCodeAt(0) === 0x2f ? replaced : `/${replaced}`, outer: path.slice(0, at), inner }
}
