/** One more of the same class, a user's subclass included, made from what this one was made from. */
export function another<Balancer extends object> (balancer: Balancer, ...given: unknown[]): Balancer {
  return new (balancer.constructor as new (...given: unknown[]) => Balancer)(...given)
}
