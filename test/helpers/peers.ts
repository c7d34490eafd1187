import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { freePort, listens } from './ports.ts'

/** A server from another hand, on a port and on a Unix socket. */
export interface Peer {
  port: number
  /** Path of its Unix socket. */
  socket: string
  folder: string
  process: ChildProcess
}

/** What a configuration is written with. */
export interface Place {
  folder: string
  port: number
  socket: string
}

/** Starts nginx with one worker, stopped with the test. @param servers the `server` blocks of its configuration */
export function nginx (t: Test, servers: (place: Place) => string): Promise<Peer> {
  return startPeer(t, 'nginx', place => {
    const { uid, username } = userInfo()
    const { folder } = place
    const file = join(folder, 'nginx.conf')
    writeFileSync(file, `
      ${uid === 0 ? `user ${username};` : ''}
      daemon off;
      worker_processes 1;
      pid ${folder}/nginx.pid;
      error_log stderr crit;
      events { worker_connections 512; }
      http {
        access_log off;
        client_max_body_size 0;
        ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(kind => `${kind}_temp_path ${folder}/temp;`).join('\n')}
        ${servers(place)}
      }
    `)
    return ['-p', folder, '-c', file, '-e', 'stderr']
  })
}

/** Starts HAProxy, stopped with the test. @param sections what follows `defaults` in its configuration */
export function haproxy (t: Test, sections: (place: Place) => string): Promise<Peer> {
  return startPeer(t, 'haproxy', place => {
    const file = join(place.folder, 'haproxy.cfg')
    writeFileSync(file, `
global
  maxconn 500
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
${sections(place)}
`)
    return ['-f', file, '-q']
  })
}

async function startPeer (t: Test, program: string, configure: (place: Place) => string[]): Promise<Peer> {
  // Somebody else may be given the port before the peer listens there.
  for (let tries = 1; ; tries++) {
    const folder = mkdtempSync(join(tmpdir(), `rockstar-proxy-${program}-`))
    const place = { folder, port: await freePort(), socket: join(folder, 'socket') }
    const child = spawn(program, configure(place), { stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => { said += chunk })
    const life = { over: false }
    const exit = new Promise<void>(resolve => {
      const end = (error?: unknown) => {
        if (error instanceof Error) said += error.message
        life.over = true
        resolve()
      }
      child.once('error', end).once('exit', end)
    })
    // Unlike what Node starts in its own process, it would outlive the test.
    const kill = () => { child.kill('SIGKILL') }
    process.once('exit', kill)
    t.teardown(async () => {
      process.off('exit', kill)
      child.kill('SIGTERM')
      await exit
      rmSync(folder, { recursive: true, force: true })
    })
    if (await listens(place.port, () => life.over)) return { ...place, process: child }
    if (tries === 3) throw new Error(`${program} does not start: ${said}`)
  }
}
