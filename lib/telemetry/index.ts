export { attemptChannel, exchangeChannel } from './channels.ts'
export { Telemetry, type Progress } from './telemetry.ts'
export { Trace } from './trace.ts'
