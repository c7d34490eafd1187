import type { Served } from './child.ts'
import type { Contender } from './contenders.ts'
import { bodyOf, type Generator, type Load } from './load.ts'
import type { Options } from './options.ts'
import type { Scenario } from './scenarios.ts'

/** One turn of one contender. */
export interface Turn extends Load {
  /** Microseconds of CPU for each request. */
  cpu: number
}

/** All turns of one contender in one scenario, round by round. */
export interface Measured {
  contender: Contender
  turns: Turn[]
}

/** Seconds of load before anything counts, by when V8 has compiled what it will. */
const WARM_UP = 3

/** Measures all contenders in one scenario. They take turns, so that whatever else the machine does hits all alike. */
export async function measure (scenario: Scenario, backend: string, generator: Generator, options: Options, tell: (text: string) => void): Promise<Measured[]> {
  const { connections, rounds, seconds } = options
  const nodeArgs = options.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${options.profile}/${scenario.name}`]
  const running: { served: Served, measured: Measured }[] = []
  try {
    for (const contender of options.contenders) {
      const served = await contender.start(backend, profileName(nodeArgs, contender.name))
      running.push({ served, measured: { contender, turns: [] } })
      await assertForwards(served.url, scenario, contender)
      tell(`${scenario.name}: warming up ${contender.name}`)
      await generator.press(served.url, scenario, connections, WARM_UP)
    }
    for (let round = 1; round <= rounds; round++) {
      // There and back, so that nobody always follows the same one.
      for (const { served, measured } of round % 2 === 1 ? running : running.toReversed()) {
        tell(`${scenario.name}: round ${round} of ${rounds}, ${measured.contender.name}`)
        const before = await served.cpu()
        const load = await generator.press(served.url, scenario, connections, seconds)
        const cpu = (await served.cpu() - before) / load.requests
        if (load.errors > 0) throw new Error(`${measured.contender.name} failed ${load.errors} requests of ${load.requests}`)
        measured.turns.push({ ...load, cpu })
      }
    }
  } finally {
    await Promise.all(running.map(({ served }) => served.stop()))
  }
  return running.map(({ measured }) => measured)
}

function profileName (nodeArgs: string[], name: string): string[] {
  return nodeArgs.length === 0 ? nodeArgs : [...nodeArgs, `--cpu-prof-name=${name}.cpuprofile`]
}

/** Being fast is no merit in one that forwards nothing. */
async function assertForwards (url: string, { method, path, upload, download }: Scenario, { name }: Contender): Promise<void> {
  const body = upload === 0 ? undefined : bodyOf(upload)
  const response = await fetch(url + path, { method, body, headers: upload === 0 ? {} : { 'content-type': 'application/json' } })
  const { byteLength } = await response.arrayBuffer()
  if (response.status !== 200 || byteLength !== download) throw new Error(`${name} answered ${response.status} and ${byteLength} bytes, not 200 and ${download}`)
}
