import { Type, type Static } from '@sinclair/typebox'

/** How events are told as they happen. */
export const EventsOptionsSchema = Type.Object({
  interval: Type.Optional(Type.Number({ minimum: 0, default: 1_000, description: 'Milliseconds between two events `metrics`; 0 for none.' })),
  heartbeat: Type.Optional(Type.Number({ minimum: 1, default: 15_000, description: 'Milliseconds of silence after which a comment is sent, so that nobody on the way takes the connection for dead.' })),
  maxClients: Type.Optional(Type.Integer({ minimum: 1, default: 32, description: 'Readers at once. Any more get 503 with `Retry-After`.' })),
  maxBuffer: Type.Optional(Type.Integer({ minimum: 1, default: 262_144, description: 'Bytes that may wait for one reader. Who is slower is dropped.' })),
  history: Type.Optional(Type.Integer({ minimum: 0, default: 256, description: 'Events that are kept for readers who come back with a `Last-Event-ID`.' }))
}, { additionalProperties: false, title: 'EventsOptions', description: 'How events are told as they happen: `admin.events`, and beside its other options those of `rockstar-proxy/events`.' })

/** How events are told as they happen. */
export type EventsOptions = Static<typeof EventsOptionsSchema>

/** A stream of Server-Sent Events, which OpenAPI has no words for. */
export const EventStreamSchema = Type.String({
  description: 'A stream of Server-Sent Events: all that `proxy.on()` tells under its names, `metrics` with what `GET /metrics` answers, and `missed` where events since `Last-Event-ID` are no longer known.',
  examples: ['id: lx2k9c-7\nevent: circuit:open\ndata: {"upstream":"default","time":"2026-01-01T12:00:00.000Z","backend":"backend-1","cause":"consecutive failures","counts":{"failures":5},"from":"closed","to":"open"}\n\n']
})
