/** RFC 9110, 10.1.4: `TE` is to be named in `Connection`, which undici writes itself. */
export function announceTrailers (head: string): string {
  return head.replace(/^connection: (?:keep-alive|close)/m, '$&, TE')
}

/** RFC 9112, 3.2.4: `OPTIONS *` is sent on as that; undici takes only paths. */
export function asteriskForm (head: string): string {
  return head.replace(/^OPTIONS \/(?= |\?)/, 'OPTIONS *')
}
