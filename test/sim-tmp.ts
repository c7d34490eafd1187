import { Overload, Timeline, Worker, percentile } from '/work/main/test/lib/admission/simulation.ts'
const rnd = Number(process.argv[2] ?? 10)
for (const [name, limits, givesUp] of [
 ['none', null, 'proxy'], ['fifo1000', { adaptive: true }, 'proxy'], ['fifo1000 client', { adaptive: true }, 'client'],
 ['fifo500', { adaptive: true, queue: { timeout: 500 } }, 'proxy'], ['lifo', { adaptive: true, queue: { order: 'lifo' } }, 'proxy'], ['lifo client', { adaptive: true, queue: { order: 'lifo' } }, 'client'], ['noqueue', { adaptive: true, queue: false }, 'proxy'],
 ['fixed 16 fifo', { maxPerBackend: 16 }, 'proxy'],['initial 200 lifo', { adaptive: {initial:200}, queue: { order: 'lifo' } }, 'proxy'],['initial 4 lifo', { adaptive: {initial:4}, queue: { order: 'lifo' } }, 'proxy']] as any) {
  const time = new Timeline()
  const o = new Overload(time, { worker: new Worker(time, 8, 40), limits, givesUp })
  o.load(200 * rnd)
  const t0 = Date.now()
  let line = ''
  for (let i = 0; i < 12; i++) { const s = await o.pass(10000); line += ` ${(s.good / 2000).toFixed(2)}/${o.limit.toFixed(0)}/${percentile(s.times, .99)?.toFixed(0)}` }
  console.log(name, line, Date.now() - t0, 'ms')
}
