export { Admission, type Entrant } from './admission.ts'
export type { Concurrency } from './concurrency.ts'
