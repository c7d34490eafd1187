/**
 * Makes a call of each kind through the gateway of `gateway.ts`:
 *
 *     node --import=tsx examples/grpc/client.ts http://127.0.0.1:8080
 */
import { credentials, status, type ServiceError } from '@grpc/grpc-js'
import { Greeter, type Greeting, type GreeterClient } from './service.ts'

const { host } = new URL(process.argv[2] ?? 'http://127.0.0.1:8080')
const client = new Greeter(host, credentials.createInsecure()) as unknown as GreeterClient

function greet (name: string): Promise<Greeting> {
  return new Promise((resolve, reject) => client.Greet({ name }, { deadline: Date.now() + 5_000 }, (error, greeting) => error === null ? resolve(greeting as Greeting) : reject(error)))
}

const show = ({ text, by }: Greeting) => console.log(`  ${text} (${by})`)

console.log('Unary, three times:')
for (const name of ['Ada', 'Grace', 'Edsger']) show(await greet(name))

console.log('An error:')
await greet('').catch(({ code, details }: ServiceError) => console.log(`  ${status[code]}: ${details}`))

console.log('Server streaming:')
for await (const greeting of client.GreetOften({ name: 'Ada' })) show(greeting as Greeting)

console.log('Client streaming:')
show(await new Promise<Greeting>((resolve, reject) => {
  const call = client.GreetAll((error, greeting) => error === null ? resolve(greeting as Greeting) : reject(error))
  for (const name of ['Ada', 'Grace', 'Edsger']) call.write({ name })
  call.end()
}))

console.log('Both ways:')
const call = client.Converse()
const names = ['Ada', 'Grace', 'Edsger']
call.write({ name: names.shift() as string })
for await (const greeting of call) {
  show(greeting as Greeting)
  // The next name goes out when the one before it has been greeted.
  const name = names.shift()
  if (name === undefined) call.end()
  else call.write({ name })
}
client.close()
