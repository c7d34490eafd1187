import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Socket } from 'node:net'
import type { OnUpgrade } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { asError, proxyError } from '../errors.ts'
import { Tunnel } from '../tunnel/index.ts'
import type { Upstream } from '../upstream.ts'
import type { Exchange } from './exchange.ts'
import type { TunnelClosed } from './exchange-client.ts'
import { rewritten } from './header-record.ts'
import { tellListener } from './listeners.ts'
import { joinReplyHeaders } from './reply-headers.ts'
import type { Settings } from './settings.ts'
import type { Upgrade } from './upgrade.ts'
import { endUntold, switchingHead } from './wire.ts'

/** Starts an exchange for a tunnel once the application has said that there may be one. */
export function startIfAllowed (request: FastifyRequest, exchange: Exchange, onUpgrade: OnUpgrade): void {
  const refuse = (error: unknown) => exchange.refuse(asError(error))
  const heed = (allowed: boolean | void) => {
    if (allowed === false) refuse(proxyError('UPGRADE_REFUSED'))
    else exchange.start()
  }
  try {
    const answer = onUpgrade(request)
    if (answer instanceof Promise) {
      answer.then(heed).catch(refuse)
      exchange.hold()
    } else heed(answer)
  } catch (error) {
    refuse(error)
  }
}

/** What a tunnel is made of. */
export interface TunnelParts {
  request: FastifyRequest
  reply: FastifyReply
  exchange: Exchange
  settings: Settings
  upgrade: Upgrade
  upstream: Upstream
  backend: Backend
  /** The backend's connection, and the head with which it has switched. */
  socket: Socket
  headers: string[]
  /** Called once, when both connections have closed. */
  closed: TunnelClosed
}

/** Answers a client that its connection is switched, and joins it to the backend's. Throws where somebody else has answered it. */
export function openTunnel ({ request, reply, exchange, settings, upgrade: { end, protocol }, upstream, backend, socket, headers, closed }: TunnelParts): Tunnel {
  const { rewriteHeaders, onTunnelClose, timeouts } = settings
  const { raw } = reply
  const fields = rewriteHeaders === undefined ? headers : rewritten(headers, record => rewriteHeaders(record, request), 'rewriteHeaders')
  if (exchange.ended || reply.sent || raw.headersSent) throw new Error('the request was answered by somebody else')
  const openedAt = upstream.clock.now()
  const client = end.socket
  // What the connection becomes is not the application's to say.
  reply.removeHeader('connection').removeHeader('upgrade')
  client.write(switchingHead(joinReplyHeaders(reply, fields)), 'latin1')
  reply.hijack()
  raw.detachSocket(client)
  const tunnel = new Tunnel({
    client,
    backend: socket,
    early: end.take(),
    protocol,
    timeout: timeouts.tunnel,
    halfClosedTimeout: timeouts.idle,
    target: backend,
    onEnd: ({ bytesReceived, bytesSent }) => {
      closed(bytesReceived, bytesSent)
      endUntold(raw, 101)
      const told = { protocol, backend, bytesReceived, bytesSent, duration: upstream.clock.now() - openedAt }
      if (onTunnelClose !== undefined) tellListener(() => onTunnelClose(request, told), 'onTunnelClose', request.log)
    }
  }, upstream.tunnels)
  // Who was asked before its backend, or all of this, was to end has come too late.
  if (upstream.closed || upstream.leaving || backend.draining) tunnel.leave(0)
  return tunnel
}
