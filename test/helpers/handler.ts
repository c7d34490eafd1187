import type { Dispatcher } from 'undici'
import type { StreamHandler } from '../../lib/pool/index.ts'
import { until } from './wire.ts'

/** A dispatch handler that writes down what it is told. */
export class Recorder implements StreamHandler {
  overStream = false
  endsAtHead = false
  heard = false
  reused = false
  connected = 0
  status = 0
  statusMessage = ''
  /** Names and values, as their bytes. */
  headers: string[] = []
  interim: number[] = []
  body = ''
  trailers: string[] | null = null
  completed = 0
  errors: (Error & { code?: string })[] = []
  resume: () => void = () => {}
  abort: (error?: Error) => void = () => {}
  /** Whether it takes what comes. */
  flowing = true

  onConnect (abort: (error?: Error) => void): void {
    this.connected++
    this.abort = abort
  }

  onHeaders (status: number, headers: Buffer[], resume: () => void, statusMessage: string): boolean {
    if (status < 200) {
      this.interim.push(status)
      return true
    }
    this.status = status
    this.statusMessage = statusMessage
    this.headers = headers.map(bytes => bytes.toString('latin1'))
    this.resume = resume
    return this.flowing
  }

  onData (chunk: Buffer): boolean {
    this.body += chunk.toString('latin1')
    return this.flowing
  }

  onComplete (trailers: string[] | null): void {
    this.completed++
    this.trailers = trailers?.map(text => Buffer.from(text).toString('latin1')) ?? null
  }

  onError (error: Error): void {
    this.errors.push(error)
  }

  get over (): boolean {
    return this.completed + this.errors.length > 0
  }

  /** Resolves to itself once it has come to an end. */
  async ended (): Promise<this> {
    await until(() => this.over)
    return this
  }
}

/** A request for the root, but for what is given. */
export function requestOf (more: Partial<Dispatcher.DispatchOptions> = {}): Dispatcher.DispatchOptions {
  return { path: '/', method: 'GET', ...more }
}
