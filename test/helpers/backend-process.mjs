/**
 * A backend in a process of its own, which can be stopped and killed: `backend-process.mjs SETUP`, see `Setup` in `backend-process.ts`.
 * Its parent tells it by messages how to behave, and by SIGTERM to end in order.
 */
import { openSync, writeSync } from 'node:fs'
import { createServer } from 'node:http'

const { id, port, takes, spread, behaviour: first, idle, journal } = JSON.parse(process.argv[2])
let behaviour = first
/** Requests for anything but `/health`: when they were sent, if they say so, and when they came. */
let requests = []
const held = []
let listening = port
/** Whether it answers what it has, and then ends. */
let leaving = false
/** Milliseconds that an answer takes at the least. */
let pace = takes
/** A file and not a message: what was written to it before a SIGKILL is there after it. */
const book = journal === undefined ? -1 : openSync(journal, 'a')

const server = createServer((request, response) => {
  const health = request.url === '/health'
  if (!health) requests.push([Number(request.headers['x-sent']) || 0, now()])
  note('got', request)
  if (behaviour === 'silent') return
  const headers = { 'content-length': id.length }
  if (idle !== undefined) {
    // Where we say it ourselves, Node does not say for how long.
    headers.connection = 'keep-alive'
    hangUpAfter(request.socket, response)
  }
  if (request.url === '/half') response.writeHead(200, { ...headers, 'content-length': id.length * 2 }).write(id)
  const status = behaviour === 'unavailable' ? 503 : 200
  const answer = () => {
    if (request.url === '/half') return response.end(id)
    note('done', request)
    if (leaving) headers.connection = 'close'
    response.writeHead(status, headers).end(id)
  }
  if (!health && (behaviour === 'held' || request.url !== '/')) {
    held.push(answer)
    process.send({ held: held.length })
  } else if (health || pace === 0) answer()
  else setTimeout(answer, pace * (1 + spread * random()))
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
  },
  pace (milliseconds) {
    pace = milliseconds
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

/** Node's own `keepAliveTimeout` waits a second longer than it is told. */
function hangUpAfter (socket, response) {
  clearTimeout(socket.hangUp)
  response.on('finish', () => { socket.hangUp = setTimeout(() => socket.destroy(), idle) })
}

function note (what, { method, headers }) {
  if (book !== -1 && headers['x-id'] !== undefined) writeSync(book, `${what} ${method} ${headers['x-id']}\n`)
}

let state = id.charCodeAt(0)
/** The same numbers in every run. Source: Park and Miller's minimal standard. */
function random () {
  state = state * 48_271 % 0x7fff_ffff
  return state / 0x7fff_ffff
}

/** Milliseconds on a scale that all processes of this machine share. */
function now () {
  return performance.timeOrigin + performance.now()
}

process.on('message', async ([command, argument]) => process.send({ done: await commands[command](argument) ?? null }))
process.on('disconnect', () => process.exit())
process.on('SIGTERM', () => {
  leaving = true
  // Closes what is idle at once, and the rest as it is answered.
  server.close(() => process.exit())
})
await listen(listening)
const since = now()
if (behaviour === 'refusing') await refuse()
process.send({ done: { port: listening, since } })
