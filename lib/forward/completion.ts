/**
 * A promise that is only made when somebody asks for it: a handler may return, await or ignore it, and an
 * ignored one costs nothing and can never be an unhandled rejection.
 */
export class Completion<T> implements Promise<T> {
  readonly [Symbol.toStringTag] = 'Completion'
  #promise: Promise<T> | null = null
  #resolve: ((value: T) => void) | null = null
  #reject: ((error: unknown) => void) | null = null
  #state: 'pending' | 'fulfilled' | 'rejected' = 'pending'
  #result: unknown

  /** Whether anybody waits for it. */
  get observed (): boolean {
    return this.#promise !== null
  }

  fulfil (value: T): void {
    if (this.#state !== 'pending') return
    this.#state = 'fulfilled'
    this.#result = value
    this.#resolve?.(value)
  }

  reject (error: unknown): void {
    if (this.#state !== 'pending') return
    this.#state = 'rejected'
    this.#result = error
    this.#reject?.(error)
  }

  then<A = T, B = never> (onFulfilled?: ((value: T) => A | PromiseLike<A>) | null, onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<A | B> {
    return this.#observe().then(onFulfilled, onRejected)
  }

  catch<B = never> (onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<T | B> {
    return this.#observe().catch(onRejected)
  }

  finally (onFinally?: (() => void) | null): Promise<T> {
    return this.#observe().finally(onFinally)
  }

  #observe (): Promise<T> {
    if (this.#promise === null) {
      if (this.#state === 'fulfilled') this.#promise = Promise.resolve(this.#result as T)
      else if (this.#state === 'rejected') this.#promise = Promise.reject(this.#result)
      else {
        this.#promise = new Promise<T>((resolve, reject) => {
          this.#resolve = resolve
          this.#reject = reject
        })
      }
    }
    return this.#promise
  }
}
