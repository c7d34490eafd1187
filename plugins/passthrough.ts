import type { FastifyInstance, FastifyPluginCallback, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'

const kContentType = Symbol('rockstar-proxy.content-type')
type SetAside = FastifyRequest & { [kContentType]?: string }

/**
 * Leaves request bodies of the scope it is registered in unparsed, whatever their type and size, so that
 * `forward()` streams them byte for byte. `request.body` is then the stream. Scopes outside keep their parsers.
 */
const passthroughPlugin: FastifyPluginCallback = (app: FastifyInstance, _options, done) => {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (request: FastifyRequest, payload, done) => {
    restoreContentType(request)
    done(null, payload)
  })
  // Fastify answers 415 to a type that is none, before any parser. What a body is called is the backend's affair.
  app.addHook('preParsing', (request: SetAside, _reply, payload, done) => {
    const { headers } = request.raw
    if (headers['content-type'] !== undefined && request.mediaType === undefined) {
      request[kContentType] = headers['content-type']
      delete headers['content-type']
    }
    done(null, payload)
  })
  app.addHook('preValidation', (request: FastifyRequest, _reply, done) => {
    restoreContentType(request)
    done()
  })
  done()
}

function restoreContentType (request: SetAside): void {
  if (request[kContentType] === undefined) return
  request.raw.headers['content-type'] = request[kContentType]
  request[kContentType] = undefined
}

const passthrough = fp(passthroughPlugin, { name: 'rockstar-proxy-passthrough', fastify: '5.x' })
export default passthrough
export { passthrough, passthrough as 'module.exports' }
