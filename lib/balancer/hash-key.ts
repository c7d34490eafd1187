import type { HashKey, SelectContext } from '../../types/index.ts'

/** Finds the key of a request; `undefined` where there is none. An empty one is none. */
export type KeyReader = (context: SelectContext) => string | undefined

export function keyReader (key: HashKey): KeyReader {
  if (typeof key === 'function') return context => asText(key(context))
  if (key === 'ip') return clientAddress
  if (key === 'path') return ({ path }) => upTo('?', path, 0)
  if ('header' in key) {
    const header = key.header.toLowerCase()
    return context => context.header(header) || undefined
  }
  if ('cookie' in key) {
    const assignment = `${key.cookie}=`
    return context => valueOf(assignment, context.header('cookie'), 0, ';', ' ')
  }
  const assignment = `${key.query}=`
  return ({ path }) => {
    const query = path.indexOf('?')
    return query === -1 ? undefined : valueOf(assignment, path, query + 1, '&', '&')
  }
}

/** The client's address. An IPv4 one is the same whether or not the socket listens for IPv6 too. */
export function clientAddress ({ request }: SelectContext): string | undefined {
  const ip = request?.ip
  if (ip === undefined || ip === '') return undefined
  return ip.startsWith('::ffff:') && ip.includes('.') ? ip.slice(7) : ip
}

/** The value of the first `name=value` in a list, as it stands there. */
function valueOf (assignment: string, list: string | undefined, start: number, separator: string, before: string): string | undefined {
  if (list === undefined) return undefined
  for (let at = list.indexOf(assignment, start); at !== -1; at = list.indexOf(assignment, at + 1)) {
    if (at === start || list[at - 1] === separator || list[at - 1] === before) return upTo(separator, list, at + assignment.length)
  }
  return undefined
}

function upTo (end: string, text: string, start: number): string | undefined {
  const at = text.indexOf(end, start)
  return (at === -1 ? start === 0 ? text : text.slice(start) : text.slice(start, at)) || undefined
}

/** A function may return whatever it likes; an object would be one and the same key for all. */
function asText (key: unknown): string | undefined {
  if (typeof key === 'string') return key || undefined
  if (key === undefined || key === null) return undefined
  if (typeof key === 'number' || typeof key === 'bigint') return String(key)
  throw new TypeError(`the key function of the load balancer returned ${typeof key === 'object' ? 'an object' : `a ${typeof key}`} instead of a string`)
}
