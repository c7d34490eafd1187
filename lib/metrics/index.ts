export { Counters } from './counters.ts'
export { BOUNDS, Histogram } from './histogram.ts'
export { Tallies } from './tallies.ts'
