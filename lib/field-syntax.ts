import { WHOLE_TOKEN } from '../types/index.ts'

const NAME = new RegExp(WHOLE_TOKEN)

/** What may not stand in a field's value, in characters of one byte: RFC 9110, 5.5. CR, LF and NUL would end the field, or the message. */
const NO_VALUE = /[^\t\x20-\x7e\x80-\xff]/
const NO_VALUES = new RegExp(NO_VALUE, 'g')

/** Whether a text may be the name of a field: a `token`. */
export function isFieldName (text: string): boolean {
  return NAME.test(text)
}

/** Whether a text may be the value of a field. */
export function isFieldValue (text: string): boolean {
  return !NO_VALUE.test(text)
}

/** A text without what may not stand in a value. */
export function asFieldValue (text: string): string {
  return text.replaceAll(NO_VALUES, '')
}
