import { latin1 } from './latin1.ts'

/** The value of a field in a backend's header section, by its name in lower case; `undefined` where it is not there. */
export function rawField (headers: readonly Buffer[], name: string): string | undefined {
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i].length === name.length && latin1(headers[i]).toLowerCase() === name) return latin1(headers[i + 1])
  }
  return undefined
}

/** Bytes of the content by its head; 0 where that does not say. */
export function rawContentLength (headers: readonly Buffer[]): number {
  return Number(rawField(headers, 'content-length') ?? 0)
}
