import { createRequire } from 'node:module'

/** The version of this package, as its package.json says. Found by its name, from wherever it was built to. */
export const version: string = versionOf()

function versionOf (): string {
  try {
    return (createRequire(import.meta.url)('rockstar-proxy/package.json') as { version: string }).version
  } catch {
    // In a bundle there is none.
    return 'unknown'
  }
}
