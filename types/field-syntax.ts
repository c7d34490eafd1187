/** A `token`, as names of fields and protocols are: RFC 9110, 5.6.2. A pattern without its ends. */
export const TOKEN = '[!#$%&\'*+.^_`|~0-9A-Za-z-]+'
/** The same as the whole of a text. */
export const WHOLE_TOKEN = `^${TOKEN}$`
