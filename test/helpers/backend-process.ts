import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'

/** What a backend does with requests: answers 200 or 503 with its id, holds them until `release()`, ignores them, or does not even listen. */
export type Behaviour = 'well' | 'unavailable' | 'held' | 'silent' | 'refusing'

/** Requests that a backend has got, those for `/health` not counted. */
export interface Report {
  /** For each, in milliseconds since 1970: when it was sent, by its header `x-sent`, 0 without; and when it came. */
  requests: [sent: number, came: number][]
  /** Those that it holds. */
  held: number
}

/** How a backend is, beside its behaviour. */
export interface Setup {
  /** Milliseconds that it takes for an answer, and by what part of that some take longer, each by another. */
  takes?: number
  spread?: number
  /** Milliseconds after which it closes a connection that is idle, without having told for how long it would keep it. */
  idle?: number
  /** A file that keeps the requests that have an `x-id`, whatever becomes of the process. */
  journal?: string
}

/** One line of a journal: the backend has got a request, or is about to answer it. */
export interface Entry {
  what: 'got' | 'done'
  method: string
  id: string
}

/** Those that are running. A stopped one would outlive a parent that dies. */
const running = new Set<ChildProcess>()
process.once('exit', () => { for (const child of running) child.kill('SIGKILL') })

/**
 * A backend in a process of its own. Requests for `/` are answered as it is told to behave; those for any other path are held, and of `/half`
 * the first half comes at once. `/health` is answered as it behaves, but is never held.
 */
export class BackendProcess {
  readonly id: string
  port = 0
  /** Since when it behaves as it does, in milliseconds since 1970 on its own clock. */
  since = 0
  /** Requests that it holds, by what it has told so far. */
  held = 0
  readonly #setup: Setup
  #child!: ChildProcess
  #replies: ((reply: unknown) => void)[] = []
  #onHeld: (() => void)[] = []

  constructor (id: string, setup: Setup = {}) {
    this.id = id
    this.#setup = setup
  }

  get url (): string {
    return `http://127.0.0.1:${this.port}`
  }

  /** Starts it, or starts it again on its port. */
  async start (behaviour: Behaviour = 'well'): Promise<this> {
    this.held = 0
    const setup = JSON.stringify({ takes: 0, spread: 0, ...this.#setup, id: this.id, port: this.port, behaviour })
    const child = this.#child = fork(join(import.meta.dirname, 'backend-process.mjs'), [setup], { execPath: process.execPath, execArgv: [] })
    running.add(child)
    child.on('exit', () => running.delete(child))
    child.on('message', (message: { done: unknown } | { held: number }) => {
      if ('done' in message) return this.#replies.shift()?.(message.done)
      this.held = message.held
      for (const resolve of this.#onHeld.splice(0)) resolve()
    })
    const { port, since } = await new Promise<{ port: number, since: number }>((resolve, reject) => {
      this.#replies = [resolve as (reply: unknown) => void]
      child.once('exit', code => reject(new Error(`the backend ${this.id} has ended with ${code}`)))
    })
    this.port = port
    this.since = since
    return this
  }

  /** Resolves when it is as if it had just been started, whatever has become of it. */
  async reset (): Promise<void> {
    if (!running.has(this.#child)) {
      await this.start()
      return
    }
    this.continue()
    await this.behave('well')
    await this.release()
    await this.forget()
  }

  /** Resolves when it behaves so. */
  async behave (behaviour: Behaviour): Promise<void> {
    this.since = await this.#ask('behave', behaviour) as number
  }

  /** Resolves when it holds so many requests. */
  async holds (count: number): Promise<void> {
    while (this.held < count) await new Promise<void>(resolve => this.#onHeld.push(resolve))
  }

  /** Answers what it holds. */
  async release (): Promise<void> {
    this.held = 0
    await this.#ask('release')
  }

  async report (): Promise<Report> {
    return await this.#ask('report') as Report
  }

  /** Forgets what requests it has got. */
  async forget (): Promise<void> {
    await this.#ask('forget')
  }

  /** Lets it take so many milliseconds for an answer, until it is started again. */
  async pace (milliseconds: number): Promise<void> {
    await this.#ask('pace', milliseconds)
  }

  /** What its journal has, oldest first. */
  journal (): Entry[] {
    const { journal } = this.#setup
    if (journal === undefined || !existsSync(journal)) return []
    return readFileSync(journal, 'utf8').split('\n').slice(0, -1).map(line => {
      const [what, method, id] = line.split(' ')
      return { what, method, id } as Entry
    })
  }

  /** SIGSTOP: its port goes on accepting connections, and nothing is answered. */
  stop (): void {
    this.#child.kill('SIGSTOP')
  }

  /** SIGCONT. */
  continue (): void {
    this.since = performance.timeOrigin + performance.now()
    this.#child.kill('SIGCONT')
  }

  /** SIGKILL; resolves when it is gone. */
  kill (): Promise<void> {
    return this.#end('SIGKILL')
  }

  /** SIGTERM: it takes nothing any more, answers what it has with `Connection: close`, and resolves when it is gone. */
  retire (): Promise<void> {
    return this.#end('SIGTERM')
  }

  async #end (signal: NodeJS.Signals): Promise<void> {
    if (!running.has(this.#child)) return
    const gone = once(this.#child, 'exit')
    this.#child.kill(signal)
    await gone
  }

  #ask (command: string, argument?: unknown): Promise<unknown> {
    this.#child.send([command, argument])
    return new Promise(resolve => this.#replies.push(resolve))
  }
}

/** Starts a backend for each id, killed with the test. */
export function backendProcesses (t: Test, ...ids: string[]): Promise<BackendProcess[]> {
  return startAll(t, ids.map(id => new BackendProcess(id)))
}

/** The same for backends that keep journals, and may be slow or impatient. */
export function journallingBackends (t: Test, ids: string, setup: Setup = {}): Promise<BackendProcess[]> {
  const folder = t.testdir()
  return startAll(t, [...ids].map(id => new BackendProcess(id, { ...setup, journal: join(folder, id) })))
}

async function startAll (t: Test, backends: BackendProcess[]): Promise<BackendProcess[]> {
  t.teardown(() => Promise.all(backends.map(backend => backend.kill())))
  return await Promise.all(backends.map(backend => backend.start()))
}
