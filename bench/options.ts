import { parseArgs } from 'node:util'
import { contenders, type Contender } from './contenders.ts'
import { scenarios, type Scenario } from './scenarios.ts'

/** What the command line asks for. */
export interface Options {
  scenarios: Scenario[]
  contenders: Contender[]
  rounds: number
  seconds: number
  connections: number
  json: boolean
  /** Folder for CPU profiles of the contenders that run in Node. */
  profile: string | undefined
}

export const USAGE = `npm run bench -- [options]

  --scenario NAME   only this scenario, or several: get, post, get-64k, get-1m
  --only NAME       only this contender, or several: floor, routes, unguarded, single, limited, traced,
                    told, forward, http-proxy, nginx
  --rounds N        turns that each contender takes (5)
  --seconds N       length of a turn (2)
  --connections N   connections that are kept busy (32)
  --json            print the figures as JSON
  --profile FOLDER  write a CPU profile of each contender that runs in Node, which makes it slower
`

/** Reads the command line. Throws for what it does not know. */
export function readOptions (args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      scenario: { type: 'string', multiple: true },
      only: { type: 'string', multiple: true },
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '2' },
      connections: { type: 'string', default: '32' },
      json: { type: 'boolean', default: false },
      profile: { type: 'string' }
    }
  })
  return {
    scenarios: named(scenarios, values.scenario, '--scenario'),
    contenders: named(contenders(), values.only, '--only'),
    rounds: count(values.rounds, '--rounds'),
    seconds: count(values.seconds, '--seconds'),
    connections: count(values.connections, '--connections'),
    json: values.json,
    profile: values.profile
  }
}

/** Those that are asked for, by commas or one by one; all when none is. */
function named<T extends { name: string }> (all: readonly T[], asked: string[] | undefined, option: string): T[] {
  if (asked === undefined) return [...all]
  const names = asked.flatMap(value => value.split(','))
  for (const name of names) {
    if (!all.some(one => one.name === name)) throw new Error(`${option} ${name}: not one of ${all.map(({ name }) => name).join(', ')}`)
  }
  return all.filter(({ name }) => names.includes(name))
}

function count (value: string, option: string): number {
  const number = Number(value)
  if (!Number.isInteger(number) || number < 1) throw new Error(`${option} ${value}: not a whole number from 1`)
  return number
}
