import { startNode, type Served } from './child.ts'
import { hasNginx, startNginx } from './nginx.ts'

/** One way of forwarding, in a process of its own. */
export interface Contender {
  /** What `--only` calls it. */
  name: string
  title: string
  start (backend: string, nodeArgs: string[]): Promise<Served>
}

/** What the others are compared with. */
export const FLOOR = 'floor'
export const RIVAL = 'http-proxy'

const inNode = (name: string, title: string): Contender =>
  ({ name, title, start: (backend, nodeArgs) => startNode(`contenders/${name}.mjs`, [backend], nodeArgs) })

/** All that can be measured on this machine, in the order they are shown. */
export function contenders (): Contender[] {
  const all = [
    inNode(FLOOR, 'bare Fastify + undici'),
    inNode('routes', 'rockstar-proxy, routes'),
    inNode('unguarded', 'the same, nothing judging backends'),
    inNode('single', 'the same, one attempt only'),
    inNode('limited', 'the same, with limits'),
    inNode('traced', 'the same, tracing channels heard'),
    inNode('told', 'the same, all telemetry on'),
    inNode('forward', 'rockstar-proxy, forward()'),
    inNode(RIVAL, '@fastify/http-proxy')
  ]
  if (hasNginx()) all.push({ name: 'nginx', title: 'nginx, one worker', start: startNginx })
  return all
}
