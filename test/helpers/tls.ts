import { createServer, type Server, type ServerOptions } from 'node:https'
import type { IncomingMessage, RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { Test } from 'tap'

/** A backend that speaks TLS, on Node's own server. */
export interface TlsBackend {
  url: string
  port: number
  server: Server
  /** What the clients of its requests have shown, in the order these came. */
  seen: { servername: string | false, commonName: string | undefined, resumed: boolean, alpn: string | false | null, protocol: string | null }[]
  /** Connections whose handshake is over. */
  sockets: TLSSocket[]
}

/** Starts a backend with TLS, closed with the test. Its answers name the certificate it has shown. */
export async function tlsBackend (t: Test, options: ServerOptions, listener: RequestListener = (_, response) => { response.end('ok') }): Promise<TlsBackend> {
  const seen: TlsBackend['seen'] = []
  const sockets: TLSSocket[] = []
  const server = createServer(options, (request: IncomingMessage, response) => {
    const socket = request.socket as TLSSocket & { servername: string | false }
    const { CN } = (socket.getPeerCertificate().subject ?? {}) as { CN?: string }
    seen.push({ servername: socket.servername, commonName: CN, resumed: socket.isSessionReused(), alpn: socket.alpnProtocol, protocol: socket.getProtocol() })
    listener(request, response)
  })
  server.on('secureConnection', socket => {
    sockets.push(socket)
    socket.on('error', () => {})
  })
  server.on('tlsClientError', () => {})
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => new Promise<void>(resolve => {
    server.close(() => resolve())
    server.closeAllConnections()
  }))
  const { port } = server.address() as AddressInfo
  return { url: `https://localhost:${port}`, port, server, seen, sockets }
}
