import { connect, createServer, Socket, type AddressInfo, type LookupFunction } from 'node:net'
import t, { type Test } from 'tap'
import { watchConnect } from '../../../lib/dns/index.ts'

const EVENTS = ['connectionAttempt', 'connectionAttemptFailed', 'connectionAttemptTimeout']

/** A port on which 127.0.0.3 listens, and nobody else. */
async function port (t: Test): Promise<number> {
  const server = createServer(socket => { socket.end() })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.3', resolve))
  t.teardown(() => { server.close() })
  return (server.address() as AddressInfo).port
}

function trying (...addresses: string[]): LookupFunction {
  return (_name, options, callback) => {
    const found = addresses.map(address => ({ address, family: 4 }))
    if (options.all === true) callback(null, found)
    else callback(null, found[0].address, 4)
  }
}

/** Connects, and gives what was told of failures. */
async function attempt (port: number, lookup: LookupFunction, autoSelectFamily: boolean): Promise<{ socket: Socket, told: (string | undefined)[] }> {
  const told: (string | undefined)[] = []
  const socket = connect({ host: 'api.internal', port, lookup, autoSelectFamily })
  const end = watchConnect(socket, address => told.push(address))
  await new Promise<void>(resolve => socket.once('connect', () => {
    end(null)
    resolve()
  }).once('error', error => {
    end(error)
    resolve()
  }))
  return { socket, told }
}

t.test('each address that is tried in vain is told of once, whether another takes its place or not', async t => {
  const open = await port(t)
  const good = await attempt(open, trying('127.0.0.1', '127.0.0.2', '127.0.0.3'), true)
  t.equal(good.socket.remoteAddress, '127.0.0.3')
  t.strictSame(good.told, ['127.0.0.1', '127.0.0.2'])
  for (const event of EVENTS) t.equal(good.socket.listenerCount(event), 0, 'and nothing is left behind')
  good.socket.destroy()
  t.strictSame((await attempt(open, trying('127.0.0.1', '127.0.0.2'), true)).told, ['127.0.0.1', '127.0.0.2'])
  t.strictSame((await attempt(open, trying('127.0.0.1'), false)).told, ['127.0.0.1'])
  t.strictSame((await attempt(open, trying('127.0.0.3'), false)).told, [])
})

t.test('so is one whose connection fails otherwise, and none that was given up', async t => {
  for (const [error, expected] of [[Object.assign(new Error('wrong certificate'), { code: 'ERR_TLS' }), ['127.0.0.9']], [new Error('given up'), []], [null, []]] as const) {
    const socket = new Socket()
    const told: (string | undefined)[] = []
    const end = watchConnect(socket, address => told.push(address))
    socket.emit('connectionAttempt', '127.0.0.9', 1, 4)
    end(error)
    t.strictSame(told, expected)
  }
})

t.test('a name that cannot be resolved has no address to tell of', async t => {
  const { told } = await attempt(1, (_name, _options, callback) => callback(Object.assign(new Error('none'), { code: 'ENOTFOUND' }), ''), true)
  t.strictSame(told, [undefined])
})

t.test('one that does not answer in time goes on to the next', t => {
  const socket = new Socket()
  const told: (string | undefined)[] = []
  const end = watchConnect(socket, address => told.push(address))
  socket.emit('connectionAttempt', '127.0.0.8', 1, 4)
  socket.emit('connectionAttemptTimeout', '127.0.0.8', 1, 4)
  socket.emit('connectionAttempt', '127.0.0.9', 1, 4)
  end(null)
  t.strictSame(told, ['127.0.0.8'])
  t.end()
})
