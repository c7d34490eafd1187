const GRPC = 'grpc-timeout'
/** Milliseconds of gRPC's units. */
const UNITS: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1_000, m: 1, u: 1e-3, n: 1e-6 }
/** No more digits than gRPC allows. */
const MOST = 99_999_999

/** The time that is left, as it is told to backends: whole milliseconds, never more than there are, and 1 at the least. */
export function writeTimeLeft (name: string, milliseconds: number): string {
  const whole = String(Math.min(MOST, Math.max(1, Math.floor(milliseconds))))
  return name === GRPC ? `${whole}m` : whole
}

/** Fields as they are sent: with the time that is left, where backends are told and it has an end. */
export function withTimeLeft (headers: string[], name: string | null, milliseconds: number): string[] {
  return name === null || milliseconds === Infinity ? headers : [...headers, name, writeTimeLeft(name, milliseconds)]
}

/** Takes what a client says of the time that it has left out of the fields that are sent on; `undefined` where it says nothing that can be read. */
export function takeTimeLeft (headers: string[], name: string): number | undefined {
  let left: number | undefined
  for (let i = headers.length - 2; i >= 0; i -= 2) {
    if (headers[i].length !== name.length || headers[i].toLowerCase() !== name) continue
    const said = parse(name, headers[i + 1])
    // Said twice, the sooner holds.
    if (said !== undefined) left = Math.min(left ?? Infinity, said)
    headers.splice(i, 2)
  }
  return left
}

function parse (name: string, value: string): number | undefined {
  const match = (name === GRPC ? /^(\d{1,8})([HMSmun])$/ : /^(\d{1,15})(?:\.\d+)?$/).exec(value)
  return match === null ? undefined : Number(match[1]) * (UNITS[match[2]] ?? 1)
}
