-- An operator's retry: recipients become queued again, with attempts and maximum age anew.
--
-- arg: id, wanted {{index, state it was seen in}, …}; one that has moved on since is left alone
-- Returns {number retried, number without a body (gone, so it can't be sent again)}, or {-1, 0} if there
-- is no such batch.
local batch = load(arg.id, FIRST_BATCH_KEY)
if not batch then return { -1, 0 } end

local body_of, at = {}, 0
for message, count in ipairs(batch.counts) do
  for index = at, at + count - 1 do body_of[index] = 'c' .. (message - 1) end
  at = at + count
end

local retried, bodiless = 0, 0
for _, want in ipairs(arg.wanted) do
  local index, seen = want[1], want[2]
  if batch.states[index + 1] == seen then
    if redis.call('HEXISTS', batch.key, body_of[index]) == 0 then
      bodiless = bodiless + 1
    else
      move(batch, index, QUEUED)
      local tries = new_tries(batch, index)
      tries.attempts, tries.due = 0, 0
      retried = retried + 1
    end
  end
end
if retried > 0 then
  for _, key in ipairs({ batch.key, batch.states_key, batch.tries_key }) do redis.call('PERSIST', key) end
  local lifetime = batch.expires - batch.not_before
  batch.not_before, batch.expires = now, now + lifetime
  set_field(batch, 'w', integer(now))
  set_field(batch, 'x', integer(batch.expires))
  set_field(batch, 'z', 0)
  set_field(batch, 'g', 0)
  redis.call('ZREM', GATE_ASIDE[batch.priority], batch.id)
  redis.call('HDEL', batch.key, 'f')
  save(batch, batch.token and batch.lease or nil)
end
return { retried, bodiless }
