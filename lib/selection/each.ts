/** Does something with all of some things, also where it throws for one of them: the first error is thrown in the end. */
export function each<T> (things: Iterable<T>, use: (thing: T) => void): void {
  const errors: unknown[] = []
  for (const thing of things) {
    try {
      use(thing)
    } catch (error) {
      errors.push(error)
    }
  }
  if (errors.length > 0) throw errors[0]
}
