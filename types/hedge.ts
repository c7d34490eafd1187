import { Type, type Static } from '@sinclair/typebox'

/** When a second attempt is made although the first has not failed. */
export const HedgeOptionsSchema = Type.Object({
  percentile: Type.Optional(Type.Number({ minimum: 1, maximum: 99.9, default: 95, description: 'Part of the upstream\'s recent answers, in percent, that would have begun by then.' })),
  minDelay: Type.Optional(Type.Number({ minimum: 0, default: 5, description: 'Least milliseconds before a second attempt.' })),
  maxExtra: Type.Optional(Type.Number({ minimum: 0, maximum: 1, default: 0.05, description: 'Most second attempts, as a part of the requests of the last 10 s.' }))
}, {
  additionalProperties: false,
  title: 'HedgeOptions',
  description: 'Asks a second backend when the first takes longer than most answers do. The first good answer wins and the other attempt is given up. For idempotent requests whose body, if there is one, is at hand. Source: Dean and Barroso, The Tail at Scale; Finagle\'s backup requests.'
})

export const HedgeSchema = Type.Union([Type.Boolean(), HedgeOptionsSchema], {
  default: false,
  description: 'Hedging: options, `true` for the defaults, or `false` for none.',
  expected: 'a boolean or an object of options'
})

/** When a second attempt is made although the first has not failed. */
export type HedgeOptions = Static<typeof HedgeOptionsSchema>
