import type { Readable } from 'node:stream'

/** Bytes that a web stream holds for a reader who is slow. */
const HIGH_WATER_MARK = 65_536

/**
 * Content as a WHATWG stream, at the pace of its reader. Node's own conversion throws at the process
 * when such a stream is cancelled while content comes.
 */
export function toWebStream (content: Readable): ReadableStream<Uint8Array> {
  let open = true
  return new ReadableStream<Uint8Array>({
    start (controller) {
      content
        .on('data', (chunk: Buffer) => {
          if (!open) return
          controller.enqueue(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength))
          if ((controller.desiredSize ?? 0) <= 0) content.pause()
        })
        .on('end', () => {
          if (open) controller.close()
          open = false
        })
        .on('error', error => {
          if (open) controller.error(error)
          open = false
        })
      content.pause()
    },
    pull () {
      content.resume()
    },
    cancel () {
      open = false
      content.destroy()
    }
  }, new ByteLengthQueuingStrategy({ highWaterMark: HIGH_WATER_MARK }))
}
