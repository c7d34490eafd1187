/** A colour of the pictures, which has one value on light ground and one on dark. */
export type Colour = 'text' | 'muted' | 'grid' | 'ground' | 'blue' | 'orange' | 'green' | 'purple'

const COLOURS: Record<Colour, readonly [light: string, dark: string]> = {
  text: ['#1f2328', '#e6edf3'],
  muted: ['#59636e', '#9198a1'],
  grid: ['#d8dee4', '#30363d'],
  ground: ['#ffffff', '#0d1117'],
  blue: ['#0969da', '#4493f8'],
  orange: ['#bc4c00', '#f0883e'],
  green: ['#1a7f37', '#3fb950'],
  purple: ['#8250df', '#ab7df8']
}

/** What a picture says to those who see it and to those who do not. */
export interface Caption {
  title: string
  description: string
}

/** A picture of its own ground, so that it is readable on any page. */
export function picture ({ title, description }: Caption, width: number, height: number, content: string[]): string {
  const colours = (scheme: 0 | 1) => Object.entries(COLOURS).map(([name, values]) => `.${name}{fill:${values[scheme]}}.${name}-line{stroke:${values[scheme]}}`).join('')
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-labelledby="title description">
<title id="title">${escaped(title)}</title>
<desc id="description">${escaped(description)}</desc>
<style>text{font:13px system-ui,-apple-system,"Segoe UI",sans-serif}.bold{font-weight:600}.heading{font-size:16px;font-weight:600}.small{font-size:12px}path{fill:none;stroke-width:2;stroke-linejoin:round}line{stroke-width:1}${colours(0)}@media (prefers-color-scheme:dark){${colours(1)}}</style>
<rect class="ground" width="${width}" height="${height}" rx="6"/>
${text(20, 30, title, { look: 'heading' })}
${content.join('\n')}
</svg>
`
}

interface TextOptions {
  colour?: Colour
  look?: 'bold' | 'heading' | 'small'
  anchor?: 'start' | 'middle' | 'end'
}

export function text (x: number, y: number, content: string, { colour = 'text', look, anchor = 'start' }: TextOptions = {}): string {
  const classes = look === undefined ? colour : `${colour} ${look}`
  return `<text x="${short(x)}" y="${short(y)}" class="${classes}"${anchor === 'start' ? '' : ` text-anchor="${anchor}"`}>${escaped(content)}</text>`
}

/** The name of a vertical axis, read from below. */
export function upright (x: number, y: number, content: string): string {
  return `<text transform="translate(${short(x)} ${short(y)}) rotate(-90)" class="muted" text-anchor="middle">${escaped(content)}</text>`
}

export function line (x1: number, y1: number, x2: number, y2: number, colour: Colour = 'grid', dashes = ''): string {
  return `<line x1="${short(x1)}" y1="${short(y1)}" x2="${short(x2)}" y2="${short(y2)}" class="${colour}-line"${dashed(dashes)}/>`
}

export function path (points: readonly (readonly [x: number, y: number])[], colour: Colour, dashes = ''): string {
  return `<path d="M${points.map(point => point.map(short).join(' ')).join('L')}" class="${colour}-line"${dashed(dashes)}/>`
}

export function dot (x: number, y: number, radius: number, colour: Colour): string {
  return `<circle cx="${short(x)}" cy="${short(y)}" r="${radius}" class="${colour}"/>`
}

export function box (x: number, y: number, width: number, height: number, colour: Colour): string {
  return `<rect x="${short(x)}" y="${short(y)}" width="${short(width)}" height="${short(height)}" rx="4" class="${colour}"/>`
}

/** Where a value belongs on an axis. */
export type Scale = (value: number) => number

export function linear (from: number, to: number, start: number, end: number): Scale {
  return value => start + (value - from) / (to - from) * (end - start)
}

export function logarithmic (from: number, to: number, start: number, end: number): Scale {
  const scale = linear(Math.log(from), Math.log(to), start, end)
  return value => scale(Math.log(value))
}

/** Moves heights apart that would have labels overlap; they stay in their order, and as near to where they were as that lets them. */
export function apart (heights: readonly number[], distance: number): number[] {
  const order = heights.map((_, i) => i).sort((a, b) => heights[a] - heights[b])
  const groups: { members: number[], centre: number }[] = []
  for (const i of order) {
    let group = { members: [i], centre: heights[i] }
    for (let before = groups.at(-1); before !== undefined && overlap(before, group, distance); before = groups.at(-1)) {
      groups.pop()
      const members = [...before.members, ...group.members]
      group = { members, centre: members.reduce((sum, member) => sum + heights[member], 0) / members.length }
    }
    groups.push(group)
  }
  const moved = [...heights]
  for (const { members, centre } of groups) members.forEach((member, i) => { moved[member] = centre + (i - (members.length - 1) / 2) * distance })
  return moved
}

function overlap (upper: { members: number[], centre: number }, lower: { members: number[], centre: number }, distance: number): boolean {
  return lower.centre - upper.centre < (upper.members.length + lower.members.length) / 2 * distance
}

/** A whole number with its thousands apart. */
export function grouped (number: number): string {
  return number.toFixed(0).replace(/\B(?=(\d{3})+$)/g, ' ')
}

function dashed (dashes: string): string {
  return dashes === '' ? '' : ` stroke-dasharray="${dashes}"`
}

function short (number: number): string {
  return String(Math.round(number * 10) / 10)
}

function escaped (content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
