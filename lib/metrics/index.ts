export { Counters } from './counters.ts'
export { Histogram } from './histogram.ts'
export { Tallies } from './tallies.ts'
