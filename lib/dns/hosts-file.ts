import { readFile, stat } from 'node:fs/promises'
import { isIP } from 'node:net'
import { join } from 'node:path'
import { ipAddress, type Address } from './address.ts'

/** Where systems keep the names that no DNS server is asked for. hosts(5). */
export const HOSTS_FILE = process.platform === 'win32'
  ? join(process.env.SystemRoot ?? 'C:\\Windows', 'System32', 'drivers', 'etc', 'hosts')
  : '/etc/hosts'

/** The addresses of the hosts file, read anew when it has changed. */
export class HostsFile {
  readonly #path: string
  #version = ''
  #names: ReadonlyMap<string, readonly Address[]> = new Map()

  constructor (path = HOSTS_FILE) {
    this.#path = path
  }

  /** The addresses of a name in lower case; none where the file does not know it, or cannot be read. */
  async find (name: string): Promise<readonly Address[]> {
    try {
      const { mtimeMs, size, ino } = await stat(this.#path)
      const version = `${mtimeMs} ${size} ${ino}`
      if (version !== this.#version) {
        this.#names = parse(await readFile(this.#path, 'utf8'))
        this.#version = version
      }
    } catch {
      this.#names = new Map()
      this.#version = ''
    }
    return this.#names.get(name) ?? []
  }
}

function parse (text: string): ReadonlyMap<string, readonly Address[]> {
  const names = new Map<string, Address[]>()
  for (const line of text.split(/\r?\n/)) {
    const [address, ...aliases] = line.replace(/#.*/, '').trim().split(/\s+/)
    if (isIP(address) === 0) continue
    for (const alias of aliases) {
      const name = alias.toLowerCase()
      const known = names.get(name) ?? []
      if (!known.some(one => one.address === address)) known.push(ipAddress(address))
      names.set(name, known)
    }
  }
  return names
}
