import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { freePort, listens } from '../test/helpers/ports.ts'
import type { Served } from './child.ts'

/** Whether nginx can be measured here: installed, and on a system that tells the CPU time of other processes. */
export function hasNginx (): boolean {
  return process.platform === 'linux' && spawnSync('nginx', ['-v']).error === undefined
}

/** Starts nginx with one worker; resolves when it listens. */
export function startNginx (backend: string): Promise<Served> {
  return startNginxBefore([backend])
}

/** The same before several backends. @param more lines of the location */
export async function startNginxBefore (backends: string[], more = ''): Promise<Served> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-nginx-'))
  const port = await freePort()
  writeFileSync(join(folder, 'nginx.conf'), configuration(folder, port, backends, more))
  const child = spawn('nginx', ['-p', folder, '-c', join(folder, 'nginx.conf'), '-e', 'stderr'], { stdio: ['ignore', 'inherit', 'inherit'] })
  const gone = once(child, 'exit')
  // Unlike those of Node, it would outlive this process.
  const kill = () => child.kill('SIGTERM')
  process.once('exit', kill)
  if (!await listens(port, () => child.exitCode !== null || child.signalCode !== null)) throw new Error('nginx does not listen')
  const ticks = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }))
  const worker = workerOf(child.pid as number)
  return {
    url: `http://127.0.0.1:${port}`,
    cpu: () => cpuOf(worker) / ticks * 1e6,
    async stop () {
      process.off('exit', kill)
      kill()
      await gone
      rmSync(folder, { recursive: true, force: true })
    }
  }
}

/**
 * What a careful user would write: connections to the backend are kept, no log, the same forwarded headers as ours,
 * nothing on disk. Connections are never renewed after so many requests, because ours are not either.
 */
function configuration (folder: string, port: number, backends: string[], more: string): string {
  const { uid, username } = userInfo()
  return `
    ${uid === 0 ? `user ${username};` : ''}
    daemon off;
    worker_processes 1;
    pid ${folder}/nginx.pid;
    error_log stderr crit;
    events { worker_connections 1024; }
    http {
      access_log off;
      tcp_nodelay on;
      keepalive_requests 1000000000;
      client_body_temp_path ${folder};
      proxy_temp_path ${folder};
      fastcgi_temp_path ${folder};
      uwsgi_temp_path ${folder};
      scgi_temp_path ${folder};
      upstream backend {
        ${backends.map(backend => `server ${new URL(backend).host};`).join(' ')}
        keepalive 100;
        keepalive_requests 1000000000;
      }
      server {
        listen 127.0.0.1:${port};
        location / {
          proxy_pass http://backend;
          ${more}
          proxy_http_version 1.1;
          proxy_max_temp_file_size 0;
          proxy_set_header Connection "";
          proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
          proxy_set_header X-Forwarded-Host $http_host;
          proxy_set_header X-Forwarded-Proto $scheme;
        }
      }
    }`
}

/** The only child of nginx's master process. */
function workerOf (master: number): number {
  return Number(readFileSync(`/proc/${master}/task/${master}/children`, 'utf8').trim().split(' ')[0])
}

/** Clock ticks of a process, user and system. The name in front may hold anything, and ends with the last bracket. */
function cpuOf (pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return Number(fields[11]) + Number(fields[12])
}
