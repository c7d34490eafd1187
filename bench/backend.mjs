/**
 * The backend of all contenders: as light as a server can be in Node, so that the machine's cores are left to what
 * is measured. It answers `/bytes/N` with N bytes in one write, under the headers that a Fastify app would send.
 */
import { createServer } from 'node:net'
import { report } from './contenders/serve.mjs'

const answers = new Map()

function answerTo (path) {
  let answer = answers.get(path)
  if (answer === undefined) {
    const length = Number(path.slice('/bytes/'.length))
    const body = `{"items":"${'abcdefghij'.repeat(Math.ceil(length / 10)).slice(0, length - 12)}"}`
    answer = Buffer.from('HTTP/1.1 200 OK\r\n' +
      'content-type: application/json; charset=utf-8\r\n' +
      `content-length: ${body.length}\r\n` +
      'Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n' +
      'Connection: keep-alive\r\n' +
      'Keep-Alive: timeout=72\r\n' +
      `\r\n${body}`)
    answers.set(path, answer)
  }
  return answer
}

/** Where the first request in `bytes` ends; -1 while it is not whole. */
function endOfRequest (bytes) {
  const head = bytes.indexOf('\r\n\r\n')
  if (head === -1) return -1
  const start = head + 4
  if (bytes.startsWith('GET ')) return start
  const fields = bytes.slice(0, start)
  const length = /^content-length: *(\d+)/im.exec(fields)
  if (length !== null) {
    const end = start + Number(length[1])
    return end <= bytes.length ? end : -1
  }
  if (!/^transfer-encoding:/im.test(fields)) return start
  const last = bytes.indexOf('0\r\n\r\n', start)
  return last === -1 ? -1 : last + 5
}

const server = createServer({ noDelay: true }, socket => {
  let bytes = ''
  socket.on('error', () => {})
  socket.on('data', chunk => {
    bytes += chunk.latin1Slice()
    for (let end = endOfRequest(bytes); end !== -1; end = endOfRequest(bytes)) {
      socket.write(answerTo(bytes.slice(bytes.indexOf(' ') + 1, bytes.indexOf(' HTTP/1.1\r\n'))))
      bytes = bytes.slice(end)
    }
  })
})

server.listen(0, '127.0.0.1', () => report(server.address().port))
