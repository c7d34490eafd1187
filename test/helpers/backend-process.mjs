/**
 * A backend in a process of its own, which can be stopped and killed: `backend-process.mjs ID PORT TAKES BEHAVIOUR`. Its parent tells it
 * by messages how to behave, see `backend-process.ts`.
 */
import { createServer } from 'node:http'

const [id, port, takes, first] = process.argv.slice(2)
let behaviour = first
/** Requests for anything but `/health`: when they were sent, if they say so, and when they came. */
let requests = []
const held = []
let listening = Number(port)

const server = createServer((request, response) => {
  const health = request.url === '/health'
  if (!health) requests.push([Number(request.headers['x-sent']) || 0, now()])
  if (behaviour === 'silent') return
  if (request.url === '/half') response.writeHead(200, { 'content-length': id.length * 2 }).write(id)
  const status = behaviour === 'unavailable' ? 503 : 200
  const answer = () => {
    if (request.url === '/half') response.end(id)
    else response.writeHead(status, { 'content-length': id.length }).end(id)
  }
  if (!health && (behaviour === 'held' || request.url !== '/')) {
    held.push(answer)
    process.send({ held: held.length })
  } else if (health || takes === '0') answer()
  else setTimeout(answer, Number(takes))
})

const commands = {
  async behave (next) {
    if (behaviour === 'refusing' && next !== 'refusing') await listen(listening)
    if (behaviour !== 'refusing' && next === 'refusing') await refuse()
    behaviour = next
    return now()
  },
  release () {
    for (const answer of held.splice(0)) answer()
  },
  report: () => ({ requests, held: held.length }),
  forget () {
    requests = []
  }
}

function listen (port) {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => {
      server.off('error', reject)
      listening = server.address().port
      resolve()
    })
  })
}

function refuse () {
  return new Promise(resolve => {
    server.close(resolve)
    server.closeAllConnections()
  })
}

/** Milliseconds on a scale that all processes of this machine share. */
function now () {
  return performance.timeOrigin + performance.now()
}

process.on('message', async ([command, argument]) => process.send({ done: await commands[command](argument) ?? null }))
process.on('disconnect', () => process.exit())
await listen(listening)
const since = now()
if (behaviour === 'refusing') await refuse()
process.send({ done: { port: listening, since } })
