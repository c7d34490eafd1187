import t from 'tap'
import { takeTimeLeft, writeTimeLeft } from '../../../lib/forward/deadline-header.ts'

t.test('the time left is written in whole milliseconds, never more than there are', async t => {
  for (const [left, text] of [[1, '1'], [250, '250'], [250.999, '250'], [30_000, '30000']] as const) t.equal(writeTimeLeft('x-timeout', left), text)
})

t.test('it is 1 at the least: 0 means without end to some', async t => {
  for (const left of [0.3, 0, -5, -Infinity]) t.equal(writeTimeLeft('x-timeout', left), '1', `${left}`)
})

t.test('gRPC\'s own field has its unit, and no more than eight digits', async t => {
  t.equal(writeTimeLeft('grpc-timeout', 250.7), '250m')
  t.equal(writeTimeLeft('grpc-timeout', 0), '1m')
  t.equal(writeTimeLeft('grpc-timeout', 1e12), '99999999m')
})

t.test('a field is taken out and read, whatever the case of its name', async t => {
  for (const name of ['x-timeout', 'X-Timeout', 'X-TIMEOUT']) {
    const headers = ['a', '1', name, '250', 'b', '2']
    t.equal(takeTimeLeft(headers, 'x-timeout'), 250, name)
    t.strictSame(headers, ['a', '1', 'b', '2'])
  }
})

t.test('other fields stay, those with a name nearly the same too', async t => {
  const headers = ['x-timeout-at', '1', 'x-timeous', '2', 'x', '3', 'value', 'x-timeout']
  const before = [...headers]
  t.equal(takeTimeLeft(headers, 'x-timeout'), undefined)
  t.strictSame(headers, before)
})

t.test('of several the soonest holds, and all are taken out', async t => {
  const headers = ['x-timeout', '300', 'a', '1', 'X-Timeout', '100', 'x-timeout', '200', 'x-timeout', 'soon']
  t.equal(takeTimeLeft(headers, 'x-timeout'), 100)
  t.strictSame(headers, ['a', '1'])
})

t.test('what cannot be read says nothing, and is taken out all the same', async t => {
  for (const value of ['', 'soon', '-1', '+1', '1e3', '0x10', '250m', ' 250', '250 ', '1,2', '1.', '.5', 'Infinity', 'NaN', '9'.repeat(16)]) {
    const headers = ['x-timeout', value]
    t.equal(takeTimeLeft(headers, 'x-timeout'), undefined, JSON.stringify(value))
    t.strictSame(headers, [])
  }
})

t.test('0 is no time, and parts of a millisecond are left out', async t => {
  t.equal(takeTimeLeft(['x-timeout', '0'], 'x-timeout'), 0)
  t.equal(takeTimeLeft(['x-timeout', '250.9'], 'x-timeout'), 250)
})

t.test('gRPC\'s units are all understood', async t => {
  const units: [string, number][] = [['1H', 3_600_000], ['2M', 120_000], ['3S', 3_000], ['250m', 250], ['5000u', 5], ['7000000n', 7], ['0S', 0], ['99999999H', 99_999_999 * 3_600_000]]
  for (const [value, expected] of units) t.equal(takeTimeLeft(['grpc-timeout', value], 'grpc-timeout')?.toFixed(6), expected.toFixed(6), value)
})

t.test('what gRPC does not write is not understood in its field', async t => {
  for (const value of ['250', '250ms', '100000000m', 'm', '-1m', '1.5S', '1s', '1h', '1 S', '']) {
    t.equal(takeTimeLeft(['grpc-timeout', value], 'grpc-timeout'), undefined, JSON.stringify(value))
  }
})

t.test('what was written can be read', async t => {
  for (const name of ['x-timeout', 'grpc-timeout']) t.equal(takeTimeLeft([name, writeTimeLeft(name, 1_234.5)], name), 1_234)
})
