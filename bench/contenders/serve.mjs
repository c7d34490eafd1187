/** What every measured process shares: telling its port, and its CPU time when asked. */

/** The backend that all of them forward to. */
export const backend = process.argv[2]

/** Lets an app listen, and the runner know. */
export async function serve (app) {
  await app.listen({ port: 0, host: '127.0.0.1' })
  report(app.server.address().port)
}

/** Tells the runner the port, answers its questions, and ends with it. */
export function report (port) {
  process.on('message', () => {
    const { user, system } = process.cpuUsage()
    process.send({ cpu: user + system })
  })
  process.on('disconnect', () => process.exit())
  process.send({ port })
}
