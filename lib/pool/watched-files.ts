import { watch, type FSWatcher } from 'node:fs'
import { stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Clock, Timer } from '../../types/index.ts'

/** Milliseconds between two looks at the files: what the system does not tell of is seen then. */
const LOOK = 5_000
/** Milliseconds of quiet after which files are taken for written: mostly more than one changes. */
const QUIET = 100

/**
 * Tells when files have become others. Their folders are watched rather than they themselves, as a file is mostly replaced by a rename, and
 * Kubernetes swaps a link to the folder they are in; and they are looked at now and then, for file systems that tell of nothing.
 */
export class WatchedFiles {
  readonly #paths: readonly string[]
  readonly #clock: Clock
  readonly #onChange: () => void
  readonly #watchers = new Map<string, FSWatcher>()
  #seen = ''
  #timer: Timer | null = null
  /** When the next look is due, on the clock's scale. */
  #due = Infinity
  #closed = false

  constructor (paths: readonly string[], clock: Clock, onChange: () => void) {
    this.#paths = paths
    this.#clock = clock
    this.#onChange = onChange
    this.#watch()
    // They may have changed since they were read.
    this.#lookIn(QUIET)
  }

  close (): void {
    this.#closed = true
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    for (const watcher of this.#watchers.values()) watcher.close()
    this.#watchers.clear()
  }

  #watch (): void {
    for (const folder of new Set(this.#paths.map(path => dirname(path)))) {
      if (this.#watchers.has(folder)) continue
      const lose = () => {
        watcher?.close()
        this.#watchers.delete(folder)
      }
      let watcher: FSWatcher | null = null
      try {
        watcher = watch(folder, { persistent: false }, () => this.#lookIn(QUIET))
        watcher.on('error', lose)
        this.#watchers.set(folder, watcher)
      } catch {
        // It is gone, or there are too many watchers: what is left is to look.
      }
    }
  }

  #lookIn (delay: number): void {
    if (this.#closed) return
    const at = this.#clock.now() + delay
    // What goes on and on in the folder must not put it off.
    if (this.#timer !== null && this.#due <= at) return
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#due = at
    this.#timer = this.#clock.setTimeout(() => this.#look(), delay)
  }

  async #look (): Promise<void> {
    this.#timer = null
    const seen = await signatureOf(this.#paths)
    if (this.#closed) return
    // What happened meanwhile has set a timer.
    if (this.#timer === null) this.#lookIn(LOOK)
    if (seen === this.#seen) return
    this.#seen = seen
    // A folder may be another than the one that was watched.
    for (const watcher of this.#watchers.values()) watcher.close()
    this.#watchers.clear()
    this.#watch()
    this.#onChange()
  }
}

/** What tells one state of files from another, behind all links. */
async function signatureOf (paths: readonly string[]): Promise<string> {
  const states = await Promise.all(paths.map(path => stat(path).then(
    ({ dev, ino, size, mtimeMs, ctimeMs }) => [dev, ino, size, mtimeMs, ctimeMs].join(),
    (error: NodeJS.ErrnoException) => String(error.code))))
  return states.join(' ')
}
