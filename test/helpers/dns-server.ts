import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { createServer, type RequestListener, type Server } from 'node:http'
import { createServer as createTlsServer, type ServerOptions } from 'node:https'
import { isIP, type AddressInfo } from 'node:net'
import { decode, encode, RECURSION_AVAILABLE, RECURSION_DESIRED, type Answer, type Packet } from 'dns-packet'
import type { Test } from 'tap'
import { until } from './wire.ts'

/** What is said of one name: its addresses and services, an error, or nothing at all. */
export interface Script {
  /** Of both families. */
  addresses?: string[]
  /** As `[target, port, weight, priority]`, the last two 0 if left out. */
  srv?: [target: string, port: number, weight?: number, priority?: number][]
  /** Seconds. */
  ttl?: number
  /** A response code in place of an answer. */
  fail?: 'SERVFAIL' | 'REFUSED' | 'NXDOMAIN'
  /** Questions of which kinds are never answered; `true` for all. */
  silent?: true | 'A' | 'AAAA' | 'SRV'
}

/** A question that has come. */
export interface Question {
  name: string
  type: string
}

const CODES = { SERVFAIL: 2, NXDOMAIN: 3, REFUSED: 5 }

/** A DNS server that says what a test wants. Names it has never heard of do not exist. */
export class DnsServer {
  readonly questions: Question[] = []
  readonly #socket: Socket = createSocket('udp4')
  readonly #scripts = new Map<string, Script>()
  #held: (() => void)[] | null = null

  constructor () {
    this.#socket.on('message', (message, from) => this.#onQuestion(decode(message), from))
  }

  async listen (): Promise<this> {
    await new Promise<void>(resolve => this.#socket.bind(0, '127.0.0.1', resolve))
    return this
  }

  /** As resolvers take it. */
  get address (): string {
    return `127.0.0.1:${this.#socket.address().port}`
  }

  /** What is said of a name from now on; addresses alone hold for a minute. */
  set (name: string, script: Script | string[]): this {
    this.#scripts.set(name, Array.isArray(script) ? { addresses: script } : script)
    return this
  }

  /** How many questions have come for a name, of a kind or of any. */
  asked (name: string, type?: string): number {
    return this.questions.filter(question => question.name === name && (type === undefined || question.type === type)).length
  }

  /** Resolves when so many questions have come for a name. */
  async whenAsked (name: string, count: number, type?: string): Promise<void> {
    await until(() => this.asked(name, type) >= count)
  }

  /** Keeps answers back until `release()`. */
  hold (): void {
    this.#held ??= []
  }

  /** Sends the answers kept back, as things stand now. */
  release (): void {
    const held = this.#held ?? []
    this.#held = null
    for (const answer of held) answer()
  }

  close (): void {
    this.#socket.close()
  }

  #onQuestion (query: Packet, from: RemoteInfo): void {
    const [question] = query.questions as Question[]
    const { name, type } = question
    this.questions.push({ name, type })
    const answer = () => {
      const script = this.#scripts.get(name) ?? { fail: 'NXDOMAIN' }
      if (script.silent === true || script.silent === type) return
      const answers = script.fail === undefined ? answersOf(script, name, type) : []
      const flags = RECURSION_DESIRED | RECURSION_AVAILABLE | (script.fail === undefined ? 0 : CODES[script.fail])
      this.#socket.send(encode({ type: 'response', id: query.id, flags, questions: query.questions, answers }), from.port, from.address)
    }
    if (this.#held === null) answer()
    else this.#held.push(answer)
  }
}

function answersOf ({ addresses = [], srv = [], ttl = 60 }: Script, name: string, type: string): Answer[] {
  if (type === 'SRV') return srv.map(([target, port, weight = 0, priority = 0]) => ({ type, name, ttl, data: { target, port, weight, priority } }))
  if (type !== 'A' && type !== 'AAAA') return []
  return addresses.filter(address => isIP(address) === (type === 'A' ? 4 : 6)).map(data => ({ type, name, ttl, data }))
}

/** Starts a DNS server, closed with the test. */
export async function dnsServer (t: Test): Promise<DnsServer> {
  const server = await new DnsServer().listen()
  t.teardown(() => server.close())
  return server
}

/** Servers on one port of several addresses. */
export interface Addressed {
  port: number
  servers: Map<string, Server>
  /** What `Host` said of each request. */
  hosts: string[]
  /** Closes the one at an address, and all of its connections. */
  close (address: string): Promise<void>
}

/** Starts a server on the same port of each of several addresses of this machine, closed with the test. Unless told otherwise they answer with their address and close. */
export async function serversOn (t: Test, addresses: string[], answer?: (address: string) => RequestListener, tls?: ServerOptions): Promise<Addressed> {
  const hosts: string[] = []
  const servers = new Map<string, Server>()
  let port = 0
  const close = (address: string) => new Promise<void>(resolve => {
    servers.get(address)?.close(() => resolve())
    servers.get(address)?.closeAllConnections()
  })
  t.teardown(() => Promise.all(addresses.map(close)))
  for (const address of addresses) {
    const listener: RequestListener = (request, response) => {
      hosts.push(request.headers.host as string)
      if (answer === undefined) response.setHeader('connection', 'close').end(address)
      else answer(address)(request, response)
    }
    const server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener)
    servers.set(address, server)
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, address, resolve))
    port = (server.address() as AddressInfo).port
  }
  return { port, servers, hosts, close }
}
