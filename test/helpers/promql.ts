/** What an expression of PromQL speaks of. */
export interface Mentions {
  /** Each metric with the labels that it is asked for, and the values where they are compared for equality. */
  selectors: { metric: string, labels: Record<string, string | undefined> }[]
  /** Labels of `by`, `without`, `on`, `ignoring` and `group_left`, with the metrics of the whole expression. */
  grouping: string[]
}

const WORDS = new Set(['and', 'or', 'unless', 'by', 'without', 'on', 'ignoring', 'group_left', 'group_right', 'bool', 'offset', 'inf', 'nan'])
const GROUPING = /\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)/g

/** Finds the metrics and labels of an expression, or of one of Grafana's `label_values(metric, label)`. */
export function mentionsOf (expression: string): Mentions {
  const query = /^label_values\((.+),\s*(\w+)\)$/.exec(expression)
  if (query !== null) {
    const { selectors } = mentionsOf(query[1])
    return { selectors, grouping: [query[2]] }
  }
  const grouping = [...expression.matchAll(GROUPING)].flatMap(([, labels]) => labels.split(',').map(label => label.trim()).filter(label => label !== ''))
  const selectors: Mentions['selectors'] = []
  // Ranges hold variables of Grafana, and groupings labels: neither are metrics.
  const bare = expression.replaceAll(GROUPING, ' ').replaceAll(/\[[^\]]*\]/g, ' ')
  for (const { 0: whole, 1: name, 2: matchers, index } of bare.matchAll(/\b([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[^}"]|"(?:[^"\\]|\\.)*")*)\})?/g)) {
    // What stands before a bracket is a function; numbers end in the units of durations.
    if (WORDS.has(name) || /^\s*\(/.test(bare.slice(index + whole.length))) continue
    const labels: Record<string, string | undefined> = {}
    for (const [, label, operator, value] of (matchers ?? '').matchAll(/(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"/g)) labels[label] = operator === '=' ? value : undefined
    selectors.push({ metric: name, labels })
  }
  return { selectors, grouping }
}
