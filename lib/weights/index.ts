export { parseLoadReport } from './load-report.ts'
export { Observed } from './observed.ts'
export { Weigher, type WeigherListener } from './weigher.ts'
