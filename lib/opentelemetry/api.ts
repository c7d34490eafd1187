import type * as api from '@opentelemetry/api'
import { proxyError } from '../errors.ts'

/** OpenTelemetry's API, which the application brings. */
export type Api = typeof api

/** Loads it; the package does without where nobody asks for spans. Rejects with `INVALID_OPTIONS`. */
export async function loadApi (): Promise<Api> {
  try {
    return await import('@opentelemetry/api')
  } catch (error) {
    throw proxyError('INVALID_OPTIONS', error, 'rockstar-proxy/opentelemetry needs the package @opentelemetry/api (1.9 or a later 1.x), which cannot be loaded. Install it: npm install @opentelemetry/api')
  }
}
