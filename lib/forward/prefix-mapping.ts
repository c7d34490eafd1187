/**
 * Maps paths of the backend back to those of the client, in the fields that send the client somewhere.
 * The counterpart of nginx's `proxy_redirect` and `proxy_cookie_path`.
 */
export class PrefixMapping {
  /** The path prefix as the backend sees it, its base path included. */
  readonly #inner: string
  /** The path prefix as the client sees it. */
  readonly #outer: string
  readonly #backendHost: string
  readonly #clientHost: string

  constructor (inner: string, outer: string, backendHost: string, clientHost: string) {
    this.#inner = inner
    this.#outer = outer
    this.#backendHost = backendHost.toLowerCase()
    this.#clientHost = clientHost.toLowerCase()
  }

  /** A value of `Location`, `Content-Location` or `Refresh`. */
  mapLocation (name: string, value: string): string {
    if (name.length !== 7) return this.#mapReference(value)
    return value.replace(/^(\s*[\d.]+\s*[;,]\s*url\s*=\s*)(["']?)(.*)$/i, (_, lead: string, quote: string, reference: string) =>
      lead + quote + this.#mapReference(reference))
  }

  /** A value of `Set-Cookie`: its `Path`. */
  mapCookie (value: string): string {
    const semicolon = value.indexOf(';')
    if (semicolon === -1) return value
    return value.slice(0, semicolon) + value.slice(semicolon).replaceAll(/(;\s*path\s*=\s*)([^;\s]+)/gi, (whole, lead: string, path: string) => {
      if (path.charCodeAt(0) !== 0x2f) return whole
      return lead + (this.#mapPath(path) || '/')
    })
  }

  #mapReference (reference: string): string {
    if (reference.charCodeAt(0) === 0x2f && reference.charCodeAt(1) !== 0x2f) return this.#mapPath(reference)
    const absolute = /^((?:https?:)?\/\/)([^/?#]*)([^]*)$/i.exec(reference)
    if (absolute === null) return reference
    const [, scheme, authority, rest] = absolute
    const path = rest.startsWith('/') ? rest : `/${rest}`
    if (!this.#covers(path)) return reference
    // The backend's own address means nothing to a client, and is not for it to know.
    if (authority.toLowerCase() === this.#backendHost) return this.#mapPath(path)
    if (authority.toLowerCase() === this.#clientHost) return scheme + authority + this.#mapPath(path)
    return reference
  }

  #covers (path: string): boolean {
    if (!path.startsWith(this.#inner)) return false
    const next = path.charAt(this.#inner.length)
    return next === '' || next === '/' || next === '?' || next === '#'
  }

  #mapPath (path: string): string {
    if (!this.#covers(path)) return path
    const rest = path.slice(this.#inner.length)
    const mapped = this.#outer + rest || '/'
    // Two slashes in front are another host.
    return /^\/[/\\]/.test(mapped) ? path : mapped
  }
}
