-- Takes the turn at the sweep: one pump at a time goes on with its round, and each round is followed by an
-- hour's rest. Who took it and died keeps it for a lease.
--
-- arg: nothing of its own
-- Returns the cursor at which the round goes on ('0': it begins), or '' if it is nobody's turn now.
write_though_full()
local HOUR = 3600 * 1000
local held = redis.call('HMGET', STEERING, 'sweep:at', 'sweep:cursor')
local at = tonumber(held[1]) or 0
if now < at and at <= now + math.max(HOUR, arg.lease) then return '' end -- later: the clock was set back
redis.call('HSET', STEERING, 'sweep:at', integer(now + arg.lease))
return tonumber(held[2]) and held[2] or '0'
