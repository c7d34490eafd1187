/**
 * WebSocket, HTTP/2 and connections that do nothing: `npm run bench:connections`. Each proxy is a process of its own and takes turns with
 * the others.
 */
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { measureEcho } from './connections/echo.ts'
import { measureHttp2 } from './connections/http2.ts'
import { measureIdle } from './connections/idle.ts'
import { tableOf } from './connections/rows.ts'

const USAGE = `npm run bench:connections -- [options]

  --only NAME     echo, http2 or idle (all)
  --rounds N      turns that each takes (5)
  --seconds N     length of a turn (2)
  --tunnels N     WebSockets left open (5000)
  --clients N     clients left connected (10000)
`

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '2' },
    tunnels: { type: 'string', default: '5000' },
    clients: { type: 'string', default: '10000' },
    help: { type: 'boolean', default: false }
  }
})
if (values.help) {
  console.log(USAGE)
  process.exit()
}
const [rounds, seconds, tunnels, clients] = [values.rounds, values.seconds, values.tunnels, values.clients].map(Number)

console.log(`Node ${process.version}, ${cpus()[0].model} × ${cpus().length}`)
if ('echo'.includes(values.only)) {
  console.log(`\n### WebSocket: 100 bytes there and back, 32 connections\n\n${tableOf(await measureEcho(rounds, seconds), 'message', 'http-proxy')}`)
}
if ('http2'.includes(values.only)) {
  console.log(`\n### Small GETs over HTTP/1.1 and HTTP/2, 32 at once\n\n${tableOf(await measureHttp2(rounds, seconds), 'request', 'http-proxy')}`)
}
if ('idle'.includes(values.only)) {
  console.log('\n### Connections that do nothing\n\n|  | heap and buffers | resident |\n| --- | ---: | ---: |')
  for (const { name, heap, rss } of await measureIdle(tunnels, clients)) console.log(`| ${name} | ${(heap / 1024).toFixed(1)} KiB | ${(rss / 1024).toFixed(1)} KiB |`)
}
