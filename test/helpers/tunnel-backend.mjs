// A backend in a process of its own that switches protocols for whoever asks, and echoes what comes.
import { createServer } from 'node:net'

const server = createServer({ allowHalfOpen: true }, socket => {
  let head = ''
  const read = chunk => {
    head += chunk.toString('latin1')
    const end = head.indexOf('\r\n\r\n')
    if (end === -1) return
    socket.off('data', read)
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n')
    if (head.length > end + 4) socket.write(Buffer.from(head.slice(end + 4), 'latin1'))
    socket.pipe(socket)
  }
  socket.on('data', read)
  socket.on('error', () => {})
})
server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port }))
