/** Fields that are there to prove who sends a request, by what they are called. */
const SECRET = /^cookie2?$|(?:^|[-_])(?:assertion|auth|bearer|credentials?|jwt|key|passw(?:or)?d|pwd|session(?:-?id)?|sid|signature)(?:[-_]|$)|(?:api-?key|secret|token)(?:[-_]|$)|apikey|authorization/i

/**
 * Fields as they may be shown: the values of those that are mostly secret are not, but for those that whoever asks has said himself.
 * @param said names and values in turn
 */
export function withoutSecrets (fields: readonly [string, string][], said: readonly string[]): [string, string][] {
  const known = new Set<string>()
  for (let i = 0; i < said.length; i += 2) known.add(keyOf(said[i], said[i + 1]))
  return fields.map(([name, value]) => [name, !SECRET.test(name) || known.has(keyOf(name, value)) ? value : '***'])
}

function keyOf (name: string, value: string): string {
  return `${name.toLowerCase()}: ${value}`
}
