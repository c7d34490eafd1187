/**
 * gRPC through a gateway: three servers, and a gateway that balances calls of all four kinds over them, each by HTTP/2.
 *
 *     node --import=tsx examples/grpc/gateway.ts
 *     node --import=tsx examples/grpc/client.ts http://127.0.0.1:8080
 *
 * PORT and BACKEND_PORTS (`50051,50052,50053`) choose other ports; 0 takes a free one.
 */
import { Server, ServerCredentials, status, type sendUnaryData, type ServerDuplexStream, type ServerReadableStream, type ServerUnaryCall, type ServerWritableStream } from '@grpc/grpc-js'
import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { Greeter, type Greeting, type Hello } from './service.ts'

const HOST = '127.0.0.1'
const { PORT = '8080', BACKEND_PORTS = '50051,50052,50053' } = process.env

/** A gRPC server; gives its port as well. */
async function startBackend (by: string, port: string): Promise<{ server: Server, port: number }> {
  const server = new Server()
  server.addService(Greeter.service, {
    Greet ({ request: { name } }: ServerUnaryCall<Hello, Greeting>, answer: sendUnaryData<Greeting>) {
      if (name === '') answer({ code: status.INVALID_ARGUMENT, details: 'nobody to greet' })
      else answer(null, { text: `Hello, ${name}!`, by })
    },
    GreetOften (call: ServerWritableStream<Hello, Greeting>) {
      for (const hello of ['Hello', 'Bonjour', 'Hallo']) call.write({ text: `${hello}, ${call.request.name}!`, by })
      call.end()
    },
    GreetAll (call: ServerReadableStream<Hello, Greeting>, answer: sendUnaryData<Greeting>) {
      const names: string[] = []
      call.on('data', ({ name }: Hello) => names.push(name)).on('end', () => answer(null, { text: `Hello, ${names.join(' and ')}!`, by }))
    },
    Converse (call: ServerDuplexStream<Hello, Greeting>) {
      call.on('data', ({ name }: Hello) => call.write({ text: `Hello, ${name}!`, by })).on('end', () => call.end())
    }
  })
  const bound = await new Promise<number>((resolve, reject) => server.bindAsync(`${HOST}:${port}`, ServerCredentials.createInsecure(),
    (error, bound) => error === null ? resolve(bound) : reject(error)))
  return { server, port: bound }
}

const backends = await Promise.all(BACKEND_PORTS.split(',').map((port, i) => startBackend(`server-${i + 1}`, port)))

// gRPC is HTTP/2 from end to end. Without TLS, `http2: true` is all that Fastify needs.
const app = Fastify({ http2: true, logger: { level: 'warn' } })

await app.register(rockstarProxy, {
  backends: backends.map(({ port }, i) => ({ id: `server-${i + 1}`, url: `http://${HOST}:${port}` })),
  http2: true,
  // A deadline that a client has set ends its call at the backend too. gRPC counts as `grpc-timeout` what is left of it.
  deadlineHeader: 'grpc-timeout',
  // A call may take long to begin to answer, and a stream be silent for long: their clients set deadlines.
  timeout: { request: 0, headers: 0, idle: 0 },
  routes: [{ prefix: '/' }]
})

// Calls under way are finished before the gateway and then its backends close.
async function stop (): Promise<void> {
  await app.close()
  for (const { server } of backends) server.forceShutdown()
}
process.once('SIGTERM', stop).once('SIGINT', stop)

const address = await app.listen({ host: HOST, port: Number(PORT) })

console.log(`The gateway listens on ${address}. Try it, Ctrl+C ends it:

  node --import=tsx examples/grpc/client.ts ${address}
`)
