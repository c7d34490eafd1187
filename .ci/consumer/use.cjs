const rockstarProxy = require('rockstar-proxy')
const { entryPoints, use } = require('./use-proxy.js')

for (const entry of entryPoints()) {
  if (typeof require(entry) !== 'function') throw new TypeError(`require('${entry}') is not a plugin`)
}
use(rockstarProxy)
