-- Renews the leases of one process, all in one call. A damaged batch loses its own lease only.
--
-- arg: claims {{id, token}, …} in the order of the batches in KEYS
-- Returns one number a claim: 1 renewed, 0 lost.
write_though_full()
local quiet, lease = is_quiet(), integer(now + arg.lease)

local function renew(key, id, token)
  local held = redis.pcall('HMGET', key, 't', 'l', 'p')
  if held.err or held[1] ~= token or not DUE[held[3]] then return 0 end
  if (tonumber(held[2]) or 0) <= now and not quiet then return 0 end
  redis.call('HSET', key, 'l', lease)
  redis.call('ZADD', DUE[held[3]], 'XX', lease, id)
  return 1
end

local renewed = {}
for i, claim in ipairs(arg.claims) do
  renewed[i] = renew(KEYS[FIRST_BATCH_KEY + (i - 1) * 3], claim[1], claim[2])
end
return renewed
