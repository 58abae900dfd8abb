-- Opens a gate: its first batches become due now.
--
-- arg: priority, most (batches)
-- KEYS[19] gate [zset]
-- Returns the number of batches that became due.
local gate = KEYS[FIRST_BATCH_KEY]
local ids = redis.call('ZRANGE', gate, 0, arg.most - 1)
for _, id in ipairs(ids) do
  redis.call('ZREM', gate, id)
  redis.call('ZADD', DUE[arg.priority], 'XX', integer(now), id)
end
return #ids
