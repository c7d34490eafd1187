import { createSecureServer, createServer, type Http2SecureServer, type Http2Server, type IncomingHttpHeaders, type SecureServerOptions, type ServerHttp2Session, type ServerHttp2Stream, type ServerOptions } from 'node:http2'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'

/** A request as a backend has got it. */
export interface Http2Call {
  stream: ServerHttp2Stream
  headers: IncomingHttpHeaders
  /** Names and values in turn, as they came. */
  raw: string[]
}

/** A backend on Node's own HTTP/2 server. */
export interface Http2Backend {
  url: string
  port: number
  server: Http2Server | Http2SecureServer
  calls: Http2Call[]
  sessions: ServerHttp2Session[]
}

/** Starts one, closed with the test. @param tls with a key, it listens by TLS */
export async function http2Backend (t: Test, onCall: (call: Http2Call, nth: number) => void, options: ServerOptions & SecureServerOptions = {}): Promise<Http2Backend> {
  const secure = options.key !== undefined
  const server = secure ? createSecureServer(options) : createServer(options)
  const backend: Http2Backend = { url: '', port: 0, server, calls: [], sessions: [] }
  server.on('session', session => {
    backend.sessions.push(session)
    session.on('error', () => {})
  })
  server.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, _flags: number, raw?: string[]) => {
    stream.on('error', () => {})
    const call = { stream, headers, raw: raw as string[] }
    backend.calls.push(call)
    onCall(call, backend.calls.length - 1)
  })
  server.on('sessionError', () => {})
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => new Promise<void>(resolve => {
    for (const session of backend.sessions) session.destroy()
    server.close(() => resolve())
  }))
  backend.port = (server.address() as AddressInfo).port
  backend.url = `http${secure ? 's' : ''}://${secure ? 'localhost' : '127.0.0.1'}:${backend.port}`
  return backend
}
