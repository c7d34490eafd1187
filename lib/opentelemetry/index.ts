export { loadApi } from './api.ts'
export { AttemptSpans } from './attempt-spans.ts'
export { knownMethods } from './attributes.ts'
export { Faults } from './faults.ts'
