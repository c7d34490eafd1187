/** The bytes of a buffer as the characters of the same numbers: headers are bytes, and stay them. Node's fastest way. */
export function latin1 (buffer: Buffer): string {
  return (buffer as Buffer & { latin1Slice (): string }).latin1Slice()
}
