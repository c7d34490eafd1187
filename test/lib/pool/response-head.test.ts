import fc from 'fast-check'
import type { Socket } from 'node:net'
import t from 'tap'
import { reasonPhrase, watchHeads, type HeadListener } from '../../../lib/pool/response-head.ts'

/** What a reader gets of a socket, and what it hears, in one line of time. */
interface Seen {
  /** Bytes that were read, as latin1; `[100]` where a `100 Continue` was told of. */
  time: string
  statusLine: string
  heard: boolean
}

/** Reads packets through the watch, as undici would: until there is nothing, after each packet. */
function readThrough (packets: string[], isFinal: (time: string) => boolean = time => /HTTP\/1\.1 [2-5][^]*\r\n\r\n/.test(time)): Seen {
  const queue: Buffer[] = []
  const seen: Seen = { time: '', statusLine: '', heard: false }
  const listener: HeadListener = {
    get awaitsHead () { return !isFinal(seen.time) },
    held: false,
    heard: false,
    onContinue () { seen.time += '[100]' },
    onStatusLine (bytes) { seen.statusLine = bytes.toString('latin1') }
  }
  const socket = { read: () => queue.shift() ?? null } as unknown as Socket
  watchHeads(socket, () => listener)
  for (const packet of packets) {
    queue.push(Buffer.from(packet, 'latin1'))
    for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) seen.time += chunk.toString('latin1')
  }
  seen.heard = listener.heard
  return seen
}

const FINAL = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const HINTS = 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'
const CONTINUE = 'HTTP/1.1 100 Continue\r\n\r\n'

t.test('a 100 is taken out and told of', async t => {
  for (const bytes of [CONTINUE, 'HTTP/1.1 100 \r\n\r\n', 'HTTP/1.1 100\r\n\r\n', 'HTTP/1.0 100 Go On\r\nX-A: b\r\n\r\n']) {
    t.equal(readThrough([bytes + FINAL]).time, `[100]${FINAL}`)
    t.equal(readThrough([bytes, FINAL]).time, `[100]${FINAL}`)
    t.equal(readThrough([...bytes, ...FINAL]).time, `[100]${FINAL}`)
  }
})

t.test('other interim responses pass, and all stay in order', async t => {
  t.equal(readThrough([HINTS + CONTINUE + HINTS + CONTINUE + FINAL]).time, `${HINTS}[100]${HINTS}[100]${FINAL}`)
  t.equal(readThrough([...(CONTINUE + HINTS + FINAL)]).time, `[100]${HINTS}${FINAL}`)
})

t.test('the whole status line of the final head is shown, however it came', async t => {
  const head = 'HTTP/1.1 404 Nothing \xe4t all\r\nX: y\r\n\r\n'
  for (const packets of [[head], ['HTTP/1.1 404 Noth', head.slice(17)], [...head], [CONTINUE + head.slice(0, 5), head.slice(5)]]) {
    const { statusLine } = readThrough(packets)
    t.match(statusLine, /^HTTP\/1\.1 404 Nothing \xe4t all\r\n/)
    t.equal(reasonPhrase(Buffer.from(statusLine, 'latin1')), 'Nothing \xe4t all')
  }
})

t.test('what is behind the final head passes at once, whatever it looks like', async t => {
  t.equal(readThrough([FINAL + CONTINUE, CONTINUE, 'HTTP/1.1 1']).time, `${FINAL}${CONTINUE}${CONTINUE}HTTP/1.1 1`)
})

t.test('a 101 is final: what is behind it is of another protocol, and passes at once', async t => {
  const switched = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n'
  const isFinal = (time: string) => /HTTP\/1\.1 101[^]*\r\n\r\n/.test(time)
  for (const rest of ['bytes', CONTINUE, HINTS, FINAL, 'HTTP/1.1 1']) {
    const seen = readThrough([switched + rest], isFinal)
    t.equal(seen.time, switched + rest)
    t.equal(seen.statusLine, switched + rest, 'in the piece that it came in')
    t.equal(readThrough([HINTS + CONTINUE + switched + rest], isFinal).time, `${HINTS}[100]${switched}${rest}`)
    t.equal(readThrough([...(switched + rest)], isFinal).time, switched + rest)
  }
})

t.test('what is no response passes at once, for undici to judge', async t => {
  for (const bytes of ['SSH-2.0\r\n', 'x', 'HTTPS', 'http/1.1 200 OK\r\n', '\0\0\0', 'HTTP/1.1 1000 Long\r\n\r\n', 'HTTP/1.1 10x\r\n\r\n', 'HTTP/1.1 100x\r\n\r\n', 'HTTP/1.1 abc\r\n']) {
    t.equal(readThrough([bytes], () => false).time, bytes, JSON.stringify(bytes))
  }
})

t.test('an interim head that never ends is not held for ever', async t => {
  const packets = ['HTTP/1.1 100 Continue\r\nX-Long: ', ...Array.from({ length: 20 }, () => 'x'.repeat(1_000))]
  const { time } = readThrough(packets)
  t.ok(time.length > 16_000)
  t.notMatch(time, /\[100\]/)
})

t.test('nothing is looked at while nobody waits', async t => {
  const queue = [Buffer.from(CONTINUE), Buffer.from('more')]
  const socket = { read: () => queue.shift() ?? null } as unknown as Socket
  watchHeads(socket, () => null)
  t.equal(String(socket.read()), CONTINUE)
  t.equal(String(socket.read()), 'more')
  t.equal(socket.read(), null)
})

t.test('nothing is read while content is held back, and nothing of it is lost', async t => {
  const queue = [Buffer.from(FINAL), Buffer.from('more')]
  const socket = { read: () => queue.shift() ?? null } as unknown as Socket
  const listener = { awaitsHead: true, held: false, heard: false, onContinue () {}, onStatusLine () {} }
  watchHeads(socket, () => listener)
  t.equal(String(socket.read()), FINAL)
  listener.awaitsHead = false
  listener.held = true
  t.equal(socket.read(), null)
  listener.held = false
  t.equal(String(socket.read()), 'more')
})

t.test('the next request on a connection is watched like the first', async t => {
  const queue: Buffer[] = []
  const socket = { read: () => queue.shift() ?? null } as unknown as Socket
  let listener: HeadListener | null = null
  watchHeads(socket, () => listener)
  for (let i = 0; i < 3; i++) {
    let continues = 0
    let line = ''
    const current = { awaitsHead: true, held: false, heard: false, onContinue: () => { continues++ }, onStatusLine: (bytes: Buffer) => { line = String(bytes) } }
    listener = current
    queue.push(Buffer.from(CONTINUE + FINAL))
    t.equal(String(socket.read()), FINAL)
    t.equal(continues, 1)
    t.equal(line, FINAL)
    t.equal(current.heard, true)
    current.awaitsHead = false
    t.equal(socket.read(), null)
  }
})

t.test('however a stream of responses is cut into packets, it reads the same', async () => {
  const interim = fc.constantFrom(CONTINUE, HINTS, 'HTTP/1.1 102 Processing\r\n\r\n', 'HTTP/1.1 199 \r\nA: b\r\n\r\n', 'HTTP/1.0 100 a\r\nB: c\r\n\r\n')
  const final = fc.constantFrom(FINAL, 'HTTP/1.1 204 \r\n\r\n', 'HTTP/1.1 500 Oh No\r\nA: 1\r\n\r\n1 100 HTTP/1.1 100 Continue\r\n\r\n')
  fc.assert(fc.property(fc.array(interim, { maxLength: 5 }), final, fc.array(fc.nat(250), { maxLength: 12 }), (interims, final, cuts) => {
    const whole = interims.join('') + final
    const at = [...new Set([0, ...cuts.filter(cut => cut < whole.length), whole.length])].sort((a, b) => a - b)
    const packets = at.slice(1).map((end, i) => whole.slice(at[i], end))
    const expected = interims.map(head => head.includes(' 100 ') ? '[100]' : head).join('') + final
    const { time, statusLine } = readThrough(packets)
    return time === expected && final.startsWith(statusLine.slice(0, final.indexOf('\n') + 1))
  }))
})

t.test('reasonPhrase reads what stands between the status and the end of the line', async t => {
  for (const [head, phrase] of [
    ['HTTP/1.1 200 OK\r\nA: b\r\n\r\n', 'OK'], ['HTTP/1.1 200 \r\n', ''], ['HTTP/1.1 200\r\n', ''], ['HTTP/1.0 404 a b  c \r\n', 'a b  c '], ['HTTP/1.1 200 \xff\tx\n', '\xff\tx'], ['HTTP/1.1 200 no end', 'no end'], ['nonsense\r\n', ''], ['', '']
  ]) t.equal(reasonPhrase(Buffer.from(head, 'latin1')), phrase, JSON.stringify(head))
})
