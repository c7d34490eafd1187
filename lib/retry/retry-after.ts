/**
 * Milliseconds that `Retry-After` asks to wait: seconds, or until a date. `undefined` where it is neither. RFC 9110, 10.2.3.
 * @param wall milliseconds since 1970
 */
export function parseRetryAfter (value: string, wall: number): number | undefined {
  if (/^\d+$/.test(value)) return Number(value) * 1000
  // Only dates have a time in them; Date.parse() would read almost anything.
  // The oldest way to write them has no zone; all are in that of Greenwich. RFC 9110, 5.6.7.
  const date = value.includes(':') ? Date.parse(value.endsWith(' GMT') ? value : `${value} GMT`) : NaN
  return Number.isNaN(date) ? undefined : Math.max(0, date - wall)
}

/** The header of an answer that says after how many milliseconds it is worth asking again; none where nobody knows. */
export function retryAfterHeaders (milliseconds: number): { 'retry-after': string } | undefined {
  return milliseconds === Infinity ? undefined : { 'retry-after': String(Math.max(1, Math.ceil(milliseconds / 1000))) }
}
