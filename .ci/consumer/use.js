import rockstarProxy from 'rockstar-proxy'
import { entryPoints, use } from './use-proxy.js'

for (const entry of entryPoints()) {
  const { default: plugin } = await import(entry)
  if (typeof plugin !== 'function') throw new TypeError(`the default export of ${entry} is not a plugin`)
}
await use(rockstarProxy)
