import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

const GIGABYTE = 1_073_741_824
const MEGABYTE = 1_048_576
const BLOCK = Buffer.alloc(MEGABYTE, 'x')

// The gateway has a process of its own, so that what is measured is its memory alone: this file is run again for it.
if (process.argv[2] === 'gateway') await runGateway(process.argv[3])
else await runTests()

async function runGateway (backend: string): Promise<void> {
  const { default: Fastify } = await import('fastify')
  const { default: rockstarProxy } = await import('../../plugins/index.ts')
  const app = Fastify()
  await app.register(rockstarProxy, { backends: [backend], routes: [{ prefix: '/straight' }, { prefix: '/hooks', onSend: async () => undefined }] })
  await app.listen({ port: 0, host: '127.0.0.1' })
  let peak = 0
  setInterval(() => { peak = Math.max(peak, process.memoryUsage.rss()) }, 10).unref()
  // Answers with the peak since it was last asked, and begins anew.
  process.on('message', () => {
    const rss = process.memoryUsage.rss()
    process.send?.(Math.max(peak, rss))
    peak = rss
  })
  process.on('disconnect', () => process.exit())
  process.send?.((app.server.address() as AddressInfo).port)
}

async function runTests (): Promise<void> {
  const { default: t } = await import('tap')
  t.test('1 GB up and 1 GB down cost less than 64 MB of memory', async t => {
    const backend = await startBackend(t)
    const gateway = fork(import.meta.filename, ['gateway', `http://127.0.0.1:${backend.port}`], { execArgv: ['--import=tsx'], stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
    t.teardown(() => { gateway.disconnect() })
    const [port] = await once(gateway, 'message') as [number]
    const transfers: [string, () => Promise<number>, number][] = [
      ['up', () => upload(port, '/straight', GIGABYTE), GIGABYTE],
      ['down', () => download(port, '/straight', GIGABYTE), GIGABYTE],
      ['down through onSend hooks', () => download(port, '/hooks', GIGABYTE / 4), GIGABYTE / 4]
    ]
    // What the code itself, its pools and garbage not yet collected take is no cost of the size of a body.
    for (const path of ['/straight', '/hooks']) {
      await upload(port, path, 16 * MEGABYTE)
      await download(port, path, 16 * MEGABYTE)
    }
    await peakSince(gateway)
    const before = await peakSince(gateway)
    for (const [name, transfer, length] of transfers) {
      t.equal(await transfer(), length, `${name}: all has come`)
      const cost = await peakSince(gateway) - before
      t.ok(cost < 64 * MEGABYTE, `${Math.round(cost / MEGABYTE)} MB more at the peak than ${Math.round(before / MEGABYTE)} MB`)
    }
  })
}

async function peakSince (gateway: ChildProcess): Promise<number> {
  gateway.send('memory')
  const [bytes] = await once(gateway, 'message') as [number]
  return bytes
}

/** Writes a body as fast as it is taken. */
function pour (socket: Socket, length: number): void {
  let left = length
  const more = (): void => {
    while (left > 0) {
      const block = left < BLOCK.length ? BLOCK.subarray(0, left) : BLOCK
      left -= block.length
      if (!socket.write(block)) return
    }
    socket.off('drain', more)
  }
  socket.on('drain', more)
  more()
}

/** Takes what is uploaded and says how much it was; answers `GET /LENGTH` with so many bytes. */
async function startBackend (t: Test): Promise<{ port: number }> {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    let head = ''
    let left = 0
    let length = 0
    socket.on('error', () => {}).on('data', chunk => {
      let content = chunk.length
      if (left === 0) {
        head += chunk.toString('latin1')
        const end = head.indexOf('\r\n\r\n')
        if (end === -1) return
        const download = /^GET \/(\d+) /.exec(head)
        if (download !== null) {
          socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${download[1]}\r\n\r\n`)
          pour(socket, Number(download[1]))
          head = ''
          return
        }
        left = length = Number(/content-length: (\d+)/i.exec(head)?.[1])
        content = head.length - end - 4
        head = ''
      }
      left -= content
      if (left === 0) socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${String(length).length}\r\n\r\n${length}`)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { port: (server.address() as AddressInfo).port }
}

/** Resolves to the number of bytes that the backend says it has. */
async function upload (port: number, path: string, length: number): Promise<number> {
  const socket = connect(port, '127.0.0.1')
  let received = ''
  socket.on('data', chunk => { received += chunk.toString('latin1') })
  socket.write(`POST ${path} HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: ${length}\r\n\r\n`)
  pour(socket, length)
  await once(socket, 'close')
  return Number(received.slice(received.indexOf('\r\n\r\n') + 4))
}

/** Resolves to the number of bytes that have come. */
async function download (port: number, path: string, length: number): Promise<number> {
  const socket = connect(port, '127.0.0.1')
  let received = 0
  let head = ''
  socket.on('data', chunk => {
    if (head.includes('\r\n\r\n')) received += chunk.length
    else {
      head += chunk.toString('latin1')
      const end = head.indexOf('\r\n\r\n')
      if (end !== -1) received = head.length - end - 4
    }
  })
  socket.write(`GET ${path}/${length} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n`)
  await once(socket, 'close')
  return received
}
