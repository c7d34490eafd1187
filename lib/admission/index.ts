export { Admission, type Entrant } from './admission.ts'
export { Concurrency } from './concurrency.ts'
