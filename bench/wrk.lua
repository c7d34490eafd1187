-- Told by arguments what to ask; prints one line of JSON in the end.

function init (arguments)
  wrk.method = arguments[1]
  local upload = tonumber(arguments[2])
  for i = 3, #arguments, 2 do
    wrk.headers[arguments[i]] = arguments[i + 1]
  end
  if upload > 0 then
    wrk.headers["Content-Type"] = "application/json"
    wrk.body = '{"items":"' .. string.rep("x", upload - 12) .. '"}'
  end
end

function done (summary, latency)
  local errors = summary.errors
  print(string.format('\n{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"errors":%d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
