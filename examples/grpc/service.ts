/** The service of `greeter.proto`, as the gateway's backends and the client know it. */
import { loadPackageDefinition, type CallOptions, type Client, type ClientDuplexStream, type ClientReadableStream, type ClientUnaryCall, type ClientWritableStream, type ServiceClientConstructor, type ServiceError } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { join } from 'node:path'

export interface Hello {
  name: string
}

export interface Greeting {
  text: string
  by: string
}

type Answer = (error: ServiceError | null, greeting?: Greeting) => void

export interface GreeterClient extends Client {
  Greet (hello: Hello, options: CallOptions, answer: Answer): ClientUnaryCall
  GreetOften (hello: Hello): ClientReadableStream<Greeting>
  GreetAll (answer: Answer): ClientWritableStream<Hello>
  Converse (): ClientDuplexStream<Hello, Greeting>
}

const definition = loadPackageDefinition(loadSync(join(import.meta.dirname, 'greeter.proto')))

export const { Greeter } = definition.greeter as unknown as { Greeter: ServiceClientConstructor }
