-- Renews the leases of one process, all in one call.
--
-- arg: lease (ms), claims {{id, token}, …} in the order of the batches in KEYS
-- Returns one number a claim: 1 renewed, 0 lost.
local renewed = {}
local quiet = is_quiet()
for i, claim in ipairs(arg.claims) do
  local key = KEYS[FIRST_BATCH_KEY + (i - 1) * 3]
  local held = redis.call('HMGET', key, 't', 'l', 'p')
  if held[1] == claim[2] and (tonumber(held[2]) > now or quiet) then
    redis.call('HSET', key, 'l', integer(now + arg.lease))
    redis.call('ZADD', DUE[held[3]], integer(now + arg.lease), claim[1])
    renewed[i] = 1
  else
    renewed[i] = 0
  end
end
return renewed
