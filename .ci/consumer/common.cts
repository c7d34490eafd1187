import Fastify = require('fastify')
import rockstarProxy = require('rockstar-proxy')

const app = Fastify()
app.register(rockstarProxy, { backends: ['http://127.0.0.1:8081'] })
app.get('/count', async (request) => ({ backends: request.server.proxy.listBackends().length }))
