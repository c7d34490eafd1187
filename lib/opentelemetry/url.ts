const REDACTED = 'REDACTED'

/**
 * The URL of a request, as it may be seen. Backends' URLs have no credentials, and a path begins with a slash or asks for none.
 * Source: OpenTelemetry's semantic conventions, `url.full`.
 * @param path with its query @param secret names of what is not to be seen of it
 */
export function fullUrl (origin: string, path: string, secret: ReadonlySet<string>): string {
  if (!path.startsWith('/')) return origin
  const query = path.indexOf('?')
  if (query === -1 || secret.size === 0) return origin + path
  return `${origin}${path.slice(0, query)}?${path.slice(query + 1).split('&').map(pair => redacted(pair, secret)).join('&')}`
}

function redacted (pair: string, secret: ReadonlySet<string>): string {
  const equals = pair.indexOf('=')
  if (equals === -1) return pair
  const name = pair.slice(0, equals)
  return secret.has(decoded(name)) ? `${name}=${REDACTED}` : pair
}

/** What a server takes a name for. */
function decoded (name: string): string {
  if (!name.includes('%') && !name.includes('+')) return name
  try {
    return decodeURIComponent(name.replaceAll('+', ' '))
  } catch {
    return name
  }
}
