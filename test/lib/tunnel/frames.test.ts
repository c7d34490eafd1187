import fc from 'fast-check'
import t from 'tap'
import { FrameTracker, goingAway } from '../../../lib/tunnel/frames.ts'

/** A frame's bytes. RFC 6455, 5.2. */
function frame ({ opcode = 1, fin = true, rsv = 0, mask = false, length = 0, size = 0 }): Buffer {
  const extra = size !== 0 ? size : length < 126 ? 0 : length < 65_536 ? 2 : 8
  const head = Buffer.alloc(2 + extra + (mask ? 4 : 0), 0xa5)
  head[0] = (fin ? 0x80 : 0) | rsv << 4 | opcode
  head[1] = (mask ? 0x80 : 0) | (extra === 0 ? length : extra === 2 ? 126 : 127)
  if (extra === 2) head.writeUInt16BE(length, 2)
  if (extra === 8) head.writeBigUInt64BE(BigInt(length), 2)
  // Of bytes that would be heads of frames, were they taken for that.
  return Buffer.concat([head, Buffer.alloc(length, 0x88)])
}

const frames = fc.record({
  opcode: fc.constantFrom(0, 1, 2, 9, 10, 3, 0xb),
  fin: fc.boolean(),
  rsv: fc.nat(7),
  mask: fc.boolean(),
  length: fc.oneof(fc.nat(130), fc.constantFrom(125, 126, 127, 65_535, 65_536, 70_000)),
  long: fc.boolean()
}).map(({ long, ...given }) => frame({ ...given, size: long ? 8 : 0 }))

t.test('a frame is between frames before its first byte and behind its last, and nowhere else', t => {
  for (const given of [{}, { length: 1 }, { length: 125 }, { length: 126 }, { length: 300, mask: true }, { length: 65_536 }, { length: 5, size: 2 }, { length: 5, size: 8, mask: true }, { opcode: 9, rsv: 7 }, { mask: true }]) {
    const tracker = new FrameTracker()
    const bytes = frame(given)
    t.ok(tracker.between)
    let followed = 0
    const over: number[] = []
    for (let i = 0; i < bytes.length; i++) {
      followed += tracker.follow(bytes.subarray(i, i + 1))
      if (tracker.between) over.push(i + 1)
    }
    t.same([followed, over], [bytes.length, [bytes.length]], JSON.stringify(given))
    t.notOk(tracker.closed)
  }
  t.end()
})

t.test('whatever the chunks, ends of frames are where they are', t => {
  fc.assert(fc.property(fc.array(frames, { minLength: 1, maxLength: 8 }), fc.array(fc.integer({ min: 1, max: 90_000 }), { minLength: 1, maxLength: 30 }), (list, cuts) => {
    const bytes = Buffer.concat(list)
    const ends = new Set([0])
    let at = 0
    for (const { length } of list) ends.add(at += length)
    const tracker = new FrameTracker()
    for (let i = 0, cut = 0; i < bytes.length; cut++) {
      const chunk = bytes.subarray(i, i + cuts[cut % cuts.length])
      i += chunk.length
      if (tracker.follow(chunk) !== chunk.length || tracker.between !== ends.has(i)) return false
    }
    return true
  }), { numRuns: 300 })
  t.end()
})

t.test('told to stop, it goes as far as the end of the present frame', t => {
  fc.assert(fc.property(frames, frames, fc.nat(), (first, second, begun) => {
    const tracker = new FrameTracker()
    const bytes = Buffer.concat([first, second])
    const at = 1 + begun % first.length
    tracker.follow(bytes.subarray(0, at))
    const rest = tracker.follow(bytes.subarray(at), true)
    // One that is whole already is not begun again.
    return at + rest === first.length && tracker.between && tracker.follow(second, true) === 0
  }), { numRuns: 300 })
  t.end()
})

t.test('a close frame is noticed when it begins, whatever bits are set beside', t => {
  for (const bytes of [frame({ opcode: 8 }), frame({ opcode: 8, rsv: 7, mask: true, length: 2 }), frame({ opcode: 8, fin: false })]) {
    const tracker = new FrameTracker()
    tracker.follow(frame({ length: 300 }))
    t.notOk(tracker.closed, 'its opcode within a payload means nothing')
    tracker.follow(bytes.subarray(0, 1))
    t.ok(tracker.closed)
    tracker.follow(bytes.subarray(1))
    t.ok(tracker.closed)
    t.ok(tracker.between)
  }
  t.end()
})

t.test('lengths of 64 bits', t => {
  for (const length of [2 ** 32, 2 ** 32 + 5, 2 ** 40, Number.MAX_SAFE_INTEGER]) {
    const tracker = new FrameTracker()
    const head = Buffer.alloc(10)
    head[0] = 0x82
    head[1] = 127
    head.writeBigUInt64BE(BigInt(length), 2)
    tracker.follow(head)
    tracker.follow(Buffer.alloc(1_000_000))
    t.notOk(tracker.between, `${length}`)
    t.equal(tracker.follow(Buffer.alloc(100), true), 100)
  }
  t.end()
})

t.test('a close frame that says 1001', t => {
  t.equal(goingAway(false).toString('hex'), '880203e9')
  const keys = new Set<string>()
  for (let i = 0; i < 20; i++) {
    const bytes = goingAway(true)
    t.equal(bytes.length, 8)
    t.equal(bytes.subarray(0, 2).toString('hex'), '8882')
    const key = bytes.subarray(2, 6)
    keys.add(key.toString('hex'))
    t.equal(Buffer.from([bytes[6] ^ key[0], bytes[7] ^ key[1]]).readUInt16BE(), 1001)
  }
  t.ok(keys.size > 15, 'the key is not to be guessed (RFC 6455, 5.3)')
  for (const bytes of [goingAway(true), goingAway(false)]) {
    const tracker = new FrameTracker()
    tracker.follow(bytes)
    t.ok(tracker.closed && tracker.between)
  }
  t.end()
})
