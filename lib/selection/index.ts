export type { Selection } from './candidates.ts'
export { explain } from './explain.ts'
export { Selector } from './selector.ts'
export type { Subset, SubsetOptions } from './subset.ts'
