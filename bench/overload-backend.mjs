/**
 * A backend that works on so many requests at once: `overload-backend.mjs SLOTS TAKES`. The others wait in the order they came, and it
 * goes on working on those whose clients have left, as most applications do.
 */
import { createServer } from 'node:http'
import { report } from './contenders/serve.mjs'

const [slots, takes] = process.argv.slice(2).map(Number)
const queue = []
let busy = 0

function go () {
  while (busy < slots && queue.length > 0) {
    const response = queue.shift()
    busy++
    setTimeout(() => {
      busy--
      if (!response.destroyed) response.writeHead(200, { 'content-length': 2 }).end('ok')
      go()
    }, takes)
  }
}

const server = createServer((_request, response) => {
  queue.push(response)
  go()
})
server.listen(0, '127.0.0.1', () => report(server.address().port))
