/**
 * The floor: Fastify and undici with nothing between them but what cannot be left out. It streams both ways with
 * backpressure and gives the backend up when the client goes. It knows no timeouts, no errors worth the name, no
 * forwarded headers and no metrics, and trusts everybody.
 */
import Fastify from 'fastify'
import { Pool } from 'undici'
import { backend, serve } from './serve.mjs'

/** What undici and Node write themselves. */
const OWN = new Set(['connection', 'keep-alive', 'host', 'transfer-encoding'])

function requestHeaders (rawHeaders) {
  const headers = []
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (!OWN.has(rawHeaders[i].toLowerCase())) headers.push(rawHeaders[i], rawHeaders[i + 1])
  }
  return headers
}

function responseHeaders (buffers) {
  const headers = []
  for (let i = 0; i < buffers.length; i += 2) {
    const name = buffers[i].latin1Slice()
    if (!OWN.has(name.toLowerCase())) headers.push(name, buffers[i + 1].latin1Slice())
  }
  return headers
}

class Handler {
  constructor (res) {
    this.res = res
    this.abort = null
    this.done = false
    res.on('close', () => {
      if (!this.done && this.abort !== null) this.abort()
    })
  }

  onConnect (abort) {
    this.abort = abort
  }

  onHeaders (statusCode, headers, resume, statusMessage) {
    if (statusCode < 200) return true
    this.res.on('drain', resume)
    this.res.writeHead(statusCode, statusMessage, responseHeaders(headers))
    return true
  }

  onData (chunk) {
    return this.res.write(chunk)
  }

  onComplete () {
    this.done = true
    this.res.end()
  }

  onError () {
    this.done = true
    this.res.destroy()
  }
}

const pool = new Pool(backend, { connections: 100 })
const app = Fastify({ logger: false })
app.removeAllContentTypeParsers()
app.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
app.all('/*', (request, reply) => {
  const { raw } = request
  reply.hijack()
  pool.dispatch({
    path: raw.url,
    method: raw.method,
    headers: requestHeaders(raw.rawHeaders),
    body: request.body === undefined ? null : raw
  }, new Handler(reply.raw))
})
await serve(app)
