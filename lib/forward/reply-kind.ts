import type { FastifyReply } from 'fastify'

/**
 * Whether hooks or trailers of Fastify's are to have a say in an answer. Fastify has no method for that question;
 * where its internals have changed so that they do not tell, the answer is yes, which is always right and only slower.
 */
export function wantsHooks (reply: FastifyReply): boolean {
  const route = readSymbol(reply.request, 'fastify.context') as { onSend?: unknown } | undefined
  if (route === undefined || route.onSend !== null) return true
  return readSymbol(reply, 'fastify.reply.trailers') !== null
}

const symbols = new Map<string, symbol>()

function readSymbol (holder: object, description: string): unknown {
  let symbol = symbols.get(description)
  if (symbol === undefined) {
    symbol = Object.getOwnPropertySymbols(holder).find(candidate => candidate.description === description)
    if (symbol === undefined) return undefined
    symbols.set(description, symbol)
  }
  return (holder as Record<symbol, unknown>)[symbol]
}
