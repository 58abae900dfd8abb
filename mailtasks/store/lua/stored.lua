-- A producer has stored attachments at the places that were noted: they are found from now on, and held for it.
-- If another one was faster, its copy counts, and this one is deleted.
--
-- KEYS as in reserve.lua
-- arg: as there, without more
-- Returns for each blob 'ok', 'late' (so much time has passed that its place was given up: begin again), or
-- 'full' (others have stored so much meanwhile that it isn't kept).
local BLOBS, BLOBS_DUE, COMING, GONE, FIRST = KEYS[19], KEYS[20], KEYS[21], KEYS[22], 23
local answers = {}

local function is_full(size)
  if arg.cap == 0 then return false end
  return tonumber(redis.call('HGET', COUNTS, 'blob_bytes:redis') or 0) + size > arg.cap
end

local function count(place, size, by)
  local kind = string.match(place, '^[^:]*')
  add_up(COUNTS, { ['blobs:' .. kind] = by, ['blob_bytes:' .. kind] = by * size })
end

local function keep(digest, size, place)
  redis.call('HSET', BLOBS, digest, integer(size) .. ' ' .. integer(now) .. ' ' .. place)
  redis.call('ZADD', BLOBS_DUE, integer(now + arg.margin), digest)
  count(place, size, 1)
end

local function store(digest, size, place, lost)
  if redis.call('ZREM', COMING, place) == 0 then -- and perhaps deleted before anything was there
    redis.call('ZADD', GONE, integer(now), place)
    return 'late'
  end
  local known = string.match(redis.call('HGET', BLOBS, digest) or '', '^%d+ %d+ (.*)$')
  if known and known ~= lost then
    redis.call('ZADD', GONE, integer(now), place)
    return 'ok'
  end
  if known then
    count(known, size, -1)
  elseif is_full(size) then
    redis.call('ZADD', GONE, integer(now), place)
    return 'full'
  end
  keep(digest, size, place)
  return 'ok'
end

for i, blob in ipairs(arg.blobs) do
  local digest, size, place, lost, holders = unpack(blob)
  answers[i] = store(digest, size, place, lost)
  if answers[i] == 'ok' then
    for _, holder in ipairs(holders) do
      redis.call('ZADD', KEYS[FIRST + i - 1], integer(now + arg.grace), holder)
    end
  end
end
return answers
