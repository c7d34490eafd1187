import type { BalancerEnv } from '../../types/index.ts'
import { systemClock } from '../clock.ts'
import { fastRandom } from './fast-random.ts'

/** The real clock, and real chance. */
export const systemEnv: BalancerEnv = Object.freeze({ clock: systemClock, random: fastRandom })
