/** One kind of request, which every contender is asked over and over. */
export interface Scenario {
  /** What `--scenario` calls it. */
  name: string
  title: string
  method: 'GET' | 'POST'
  /** The backend answers `/bytes/N` with N bytes. */
  path: string
  /** Bytes of the request's body. */
  upload: number
  /** Bytes of the answer's body. */
  download: number
}

const get = (name: string, title: string, download: number): Scenario =>
  ({ name, title, method: 'GET', path: `/bytes/${download}`, upload: 0, download })

export const scenarios: readonly Scenario[] = [
  get('get', 'small GET (100 bytes of JSON)', 100),
  { name: 'post', title: '1 KB POST (100 bytes back)', method: 'POST', path: '/bytes/100', upload: 1024, download: 100 },
  get('get-64k', '64 KB GET', 65_536),
  get('get-1m', '1 MB GET', 1_048_576)
]

/** What a client of everyday sends along. Not one header more than that: every one is work for all contenders. */
export const requestHeaders: Readonly<Record<string, string>> = {
  'User-Agent': 'bench/1.0',
  Accept: 'application/json, */*;q=0.5',
  'Accept-Encoding': 'gzip, br'
}
