import type { FastifyInstance } from 'fastify'
import http, { ServerResponse, type IncomingMessage, type Server } from 'node:http'
import type { Socket } from 'node:net'
import { clientEndOf, offerEnd, protocolsOf, takeEnd } from './client-end.ts'

/** Whether somebody may want to tunnel a protocol. */
type Wanted = (protocol: string) => boolean

/** Milliseconds for a client to take the answer to what has become no tunnel, and to close. */
const LINGER = 5_000

/** How Node's server begins to read requests from a connection; its HTTP/2 server does so for clients of HTTP/1.1. */
const { _connectionListener: readRequests } = http as unknown as { _connectionListener: (this: Server, socket: Socket) => void }

/** What Node keeps on a connection: the response that is being written. */
type Answering = Socket & { _httpMessage?: ServerResponse | null }

const wantedOn = new WeakMap<object, Wanted[]>()
/** Whom a connection was answering when a request to switch it came. */
const earlier = new WeakMap<IncomingMessage, ServerResponse | null>()

/** Lets requests that ask for another protocol through Fastify's routing, hooks and handlers like any others, once for each server. */
export function routeUpgrades (app: FastifyInstance, wanted: Wanted): void {
  const server = app.server as Server
  const known = wantedOn.get(server)
  if (known !== undefined) {
    known.push(wanted)
    return
  }
  const all = [wanted]
  wantedOn.set(server, all)
  const isWanted = (request: IncomingMessage) => request.httpVersion === '1.1' && protocolsOf(request).some(protocol => all.some(wants => wants(protocol)))
  // First, so that whoever routes the request finds its connection.
  server.prependListener('upgrade', (request: IncomingMessage, socket: Answering, head: Buffer) => {
    earlier.set(request, socket._httpMessage ?? null)
    if (isWanted(request)) offerEnd(request, socket, head)
  })
  server.on('upgrade', (request: IncomingMessage, socket: Answering, head: Buffer) => {
    if (isTaken(request, socket)) return
    const serve = (head: Buffer) => isWanted(request) ? route(server, request, socket) : readAgain(server, request, socket, head)
    if (earlier.get(request) === null) serve(head)
    else serveInTurn(request, socket, head, serve)
  })
}

/** Whether another listener of the application's has begun to answer. */
function isTaken (request: IncomingMessage, socket: Answering): boolean {
  return socket.destroyed || socket.writableEnded || socket.listenerCount('data') > 0 || (socket._httpMessage ?? null) !== earlier.get(request)
}

/** Node tells of a request to switch even while it still answers those before it: their answers come first. */
function serveInTurn (request: IncomingMessage, socket: Answering, head: Buffer, serve: (head: Buffer) => void): void {
  const known = clientEndOf(request)
  const end = known ?? takeEnd(request, socket, head)
  const next = () => {
    const { _httpMessage: message } = socket
    if (message !== undefined && message !== null) message.once('finish', next)
    // One of them may have closed the connection.
    else if (socket.writable) serve(known === undefined ? Buffer.concat(end.take()) : head)
    else end.ignore()
  }
  next()
}

function route (server: Server, request: IncomingMessage, socket: Socket): void {
  // From now on bytes that come early are kept.
  clientEndOf(request)
  const response = new ServerResponse(request)
  // Nobody reads requests from this connection any more.
  response.shouldKeepAlive = false
  response.assignSocket(socket)
  // Node does so for the connections that it still reads.
  const onDrain = () => { response.emit('drain') }
  socket.on('drain', onDrain)
  response.on('finish', () => {
    socket.off('drain', onDrain)
    // It has become a tunnel.
    if (response.socket === null) return
    response.detachSocket(socket)
    letGo(request, socket)
  })
  server.emit('request', request, response)
}

/** Ends a connection behind the answer to what has become no tunnel. */
function letGo (request: IncomingMessage, socket: Socket): void {
  clientEndOf(request)?.ignore()
  socket.end()
  const timer = setTimeout(() => socket.destroy(), LINGER).unref()
  socket.once('close', () => clearTimeout(timer))
}

/**
 * RFC 9110, 7.8: a server may ignore what it is asked to become. Where anybody listens for upgrades, Node hands over all of them, with
 * their bodies unread: the request is put back without its wish, and read as the ordinary one that it is.
 */
function readAgain (server: Server, request: IncomingMessage, socket: Socket, head: Buffer): void {
  const { method, url, httpVersion, rawHeaders } = request
  // Node leaves out what is beyond, and with it perhaps what says where the body ends.
  if (server.maxHeadersCount !== null && server.maxHeadersCount > 0 && rawHeaders.length >= 2 * server.maxHeadersCount) {
    socket.on('error', () => {}).resume()
    socket.write('HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
    return letGo(request, socket)
  }
  let text = `${method} ${url} HTTP/${httpVersion}\r\n`
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i].toLowerCase()
    if (name !== 'upgrade') text += `${rawHeaders[i]}: ${name === 'connection' ? withoutUpgrade(rawHeaders[i + 1]) : rawHeaders[i + 1]}\r\n`
  }
  if (head.length > 0) socket.unshift(head)
  socket.unshift(Buffer.from(`${text}\r\n`, 'latin1'))
  // What the answer before it has set.
  socket.setTimeout(0)
  // Not as an event: for whoever counts connections this is no new one.
  readRequests.call(server, socket)
}

function withoutUpgrade (connection: string): string {
  return connection.split(',').filter(option => option.trim().toLowerCase() !== 'upgrade').join(',').trim()
}
