/** What undici's `close()` and `destroy()` give is a promise, and each of their arguments may be a function to call then as well. */
export function callBack (done: Promise<void>, ...last: unknown[]): Promise<void> & void {
  for (const one of last) if (typeof one === 'function') done.then(one as () => void)
  return done as Promise<void> & void
}
