import t from 'tap'
import { startGateway } from '../helpers/app.ts'
import { ok, rawBackend } from '../helpers/wire.ts'

t.test('a request goes through and its answer comes back', async t => {
  const backend = await rawBackend(t, request => ok(`${request.startLine}|${request.values('host')[0]}`))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }] })
  const client = await gateway.connect()
  client.send('GET /api/a?b=c HTTP/1.1\r\nHost: gateway\r\n\r\n')
  const response = await client.response()
  t.equal(response.startLine, 'HTTP/1.1 200 OK')
  t.equal(response.body, `GET /a?b=c HTTP/1.1|127.0.0.1:${backend.port}`)
})
