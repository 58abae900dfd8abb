-- Opens a gate: its first batches become due now.
--
-- arg: priority, most (batches)
-- KEYS[19] gate [zset]
-- Returns the number of batches that became due.
write_though_full()
local gate, opened = KEYS[FIRST_BATCH_KEY], 0
for _, id in ipairs(redis.call('ZRANGE', gate, 0, arg.most - 1)) do
  redis.call('ZREM', gate, id)
  opened = opened + 1
  redis.call('ZADD', DUE[arg.priority], 'XX', integer(now), id)
end
return opened
