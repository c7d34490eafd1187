import { credentials, loadPackageDefinition, Server, ServerCredentials } from '@grpc/grpc-js'
import type { CallOptions, ChannelCredentials, Client, ClientDuplexStream, ClientOptions, ClientReadableStream, ClientUnaryCall, ClientWritableStream, Metadata, sendUnaryData, ServerDuplexStream, ServerReadableStream, ServerUnaryCall, ServerWritableStream, ServiceClientConstructor, ServiceError } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { join } from 'node:path'
import type { Test } from 'tap'

/** What the calls of the tests carry. */
export interface Note {
  text?: string
  data?: Buffer
  count?: number
}

/** What a backend does with calls; those left out do what their names say. */
export interface CallHandlers {
  Unary?: (call: ServerUnaryCall<Note, Note>, answer: sendUnaryData<Note>) => void
  Many?: (call: ServerWritableStream<Note, Note>) => void
  Collect?: (call: ServerReadableStream<Note, Note>, answer: sendUnaryData<Note>) => void
  Chat?: (call: ServerDuplexStream<Note, Note>) => void
}

/** The client that @grpc/grpc-js makes of the service. */
export interface CallsClient extends Client {
  Unary (note: Note, metadata: Metadata, options: CallOptions, callback: (error: ServiceError | null, note?: Note) => void): ClientUnaryCall
  Many (note: Note, metadata?: Metadata, options?: CallOptions): ClientReadableStream<Note>
  Collect (metadata: Metadata, options: CallOptions, callback: (error: ServiceError | null, note?: Note) => void): ClientWritableStream<Note>
  Chat (metadata?: Metadata, options?: CallOptions): ClientDuplexStream<Note, Note>
}

const { Calls } = (loadPackageDefinition(loadSync(join(import.meta.dirname, 'grpc/calls.proto'))) as unknown as { calls: { Calls: ServiceClientConstructor } }).calls

const defaults: Required<CallHandlers> = {
  Unary: (call, answer) => answer(null, call.request),
  Many (call) {
    for (let i = 0; i < (call.request.count ?? 0); i++) call.write({ text: `${i}` })
    call.end()
  },
  Collect (call, answer) {
    let text = ''
    let count = 0
    call.on('data', (note: Note) => {
      text += note.text
      count++
    })
    call.on('end', () => answer(null, { text, count }))
  },
  Chat (call) {
    call.on('data', (note: Note) => call.write(note))
    call.on('end', () => call.end())
  }
}

/** Starts a gRPC server, closed with the test. */
export async function grpcBackend (t: Test, handlers: CallHandlers = {}, serverCredentials = ServerCredentials.createInsecure()): Promise<{ port: number, server: Server, stop: () => void }> {
  const server = new Server({ 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 })
  server.addService(Calls.service, { ...defaults, ...handlers } as never)
  const port = await new Promise<number>((resolve, reject) => server.bindAsync('127.0.0.1:0', serverCredentials, (error, bound) => error === null ? resolve(bound) : reject(error)))
  let stopped = false
  // It takes that but once.
  const stop = () => {
    if (!stopped) server.forceShutdown()
    stopped = true
  }
  t.teardown(stop)
  return { port, server, stop }
}

/** A gRPC client, closed with the test. */
export function grpcClient (t: Test, port: number, channel: ChannelCredentials = credentials.createInsecure(), options: ClientOptions = {}): CallsClient {
  const client = new Calls(`127.0.0.1:${port}`, channel, { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1, 'grpc.enable_retries': 0, ...options }) as unknown as CallsClient
  t.teardown(() => client.close())
  return client
}
