-- Lets go of attachments that nothing needs any more, and says what is to be deleted. A blob is needed while a
-- holder is: while the batch keeps the body of one of its messages (it goes when all recipients are sent, or
-- with the batch), or of a campaign's batch the rows' values, one of the rows not being sent; or while that batch is
-- yet to be accepted and its reservation lasts.
--
-- KEYS behind those of head.lua: 19 blobs [hash], 20 blobs:due, 21 blobs:coming, 22 blobs:gone [zsets]; then
-- per blob: its holders [zset], and for each holder that is looked at the batch [hash] and its states [string].
-- arg: blobs {{digest, {{holder, {first message, last message, …}}, …}}, …}, most (to be deleted at once)
-- Returns {place, …}: delete these, then take them out of blobs:gone. They are told of again in two margins,
-- since who is told of them may die.
write_though_full()
local BLOBS, BLOBS_DUE, COMING, GONE = KEYS[19], KEYS[20], KEYS[21], KEYS[22]
local at, LONGEST_PAUSE = 23, 3600 * 1000

-- What is sent is sent in order, so the last message tells soonest.
local function keeps_a_body(batch_key, ranges)
  for i = #ranges, 2, -2 do
    for number = ranges[i], ranges[i - 1], -1 do
      if redis.call('HEXISTS', batch_key, 'c' .. number) == 1 then return true end
    end
  end
  return false
end

-- Of a campaign's batch. What isn't sent may be queued again, as long as there are values to render it from.
local function keeps_a_row(states_key, ranges)
  local states = redis.call('GET', states_key)
  if not states then return true end -- a hand has deleted it: a person mends that, or deletes the batch
  for i = 1, #ranges, 2 do
    local of_range = string.sub(states, ranges[i] + 1, ranges[i + 1] + 1)
    if string.find(of_range, '[^' .. SENT .. ']') then return true end
  end
  return false
end

local function needs_it(holders_key, holder, batch_key, states_key, ranges)
  if redis.call('HEXISTS', batch_key, 'd') == 1 then return keeps_a_row(states_key, ranges) end
  if redis.call('EXISTS', batch_key) == 1 then return keeps_a_body(batch_key, ranges) end
  return tonumber(redis.call('ZSCORE', holders_key, holder) or 0) > now
end

local function let_go(digest, size, place)
  local kind = string.match(place, '^[^:]*')
  redis.call('HDEL', BLOBS, digest)
  redis.call('ZREM', BLOBS_DUE, digest)
  redis.call('ZADD', GONE, integer(now), place)
  add_up(COUNTS, { ['blobs:' .. kind] = -1, ['blob_bytes:' .. kind] = -size })
end

local function look(digest, holders_key, is_needed)
  local size, stored, place = string.match(redis.call('HGET', BLOBS, digest) or '', '^(%d+) (%d+) (.*)$')
  if not place then
    redis.call('ZREM', BLOBS_DUE, digest)
    redis.call('DEL', holders_key)
  elseif is_needed then -- looked at again when it is twice as old
    local age = math.abs(now - stored)
    local pause = math.max(arg.margin, math.min(age, LONGEST_PAUSE))
    redis.call('ZADD', BLOBS_DUE, integer(now + pause), digest)
  elseif redis.call('EXISTS', holders_key) == 0 then
    let_go(digest, tonumber(size), place)
  end -- else there are more holders, and its next look comes at once
end

for _, blob in ipairs(arg.blobs) do
  local digest, holders, holders_key, is_needed = blob[1], blob[2], KEYS[at], false
  for i, holder in ipairs(holders) do
    local batch_at = at + 2 * i - 1
    if needs_it(holders_key, holder[1], KEYS[batch_at], KEYS[batch_at + 1], holder[2]) then
      is_needed = true
    else
      redis.call('ZREM', holders_key, holder[1])
    end
  end
  at = at + 1 + 2 * #holders
  if tonumber(redis.call('ZSCORE', BLOBS_DUE, digest) or now + 1) <= now then
    look(digest, holders_key, is_needed)
  end
end

for _, place in ipairs(redis.call('ZRANGEBYSCORE', COMING, '-inf', integer(now), 'LIMIT', 0, arg.most)) do
  redis.call('ZREM', COMING, place)
  redis.call('ZADD', GONE, integer(now), place)
end
local gone = redis.call('ZRANGEBYSCORE', GONE, '-inf', integer(now), 'LIMIT', 0, arg.most)
for _, place in ipairs(gone) do redis.call('ZADD', GONE, integer(now + 2 * arg.margin), place) end
return gone
