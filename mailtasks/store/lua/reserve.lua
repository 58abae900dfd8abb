-- What a producer asks before it stores attachments: which are stored already, and may it store the others?
-- What is stored is held for it from now on, for `grace`; a place for what isn't is noted, so that whatever
-- becomes of the producer, the collector knows of it.
--
-- KEYS behind those of head.lua: 19 blobs [hash], 20 blobs:due, 21 blobs:coming, 22 blobs:gone [zsets]; then
-- per blob: its holders [zset].
-- arg: grace (ms), cap (bytes in Redis; 0: none), more (bytes that are wanted beside these), blobs {{digest,
--      size, place (for it, if it isn't stored), lost (a place where it is known not to be any more, or ''),
--      {holder, …}}, …}
-- Returns {used, wanted, {place, …}}: bytes in Redis, bytes that aren't stored yet, and where each is, '' if it
-- isn't. If they exceed the cap, nothing is noted.
local BLOBS, COMING, FIRST = KEYS[19], KEYS[21], 23
local places, wanted = {}, arg.more

for i, blob in ipairs(arg.blobs) do
  local digest, size, _, lost = unpack(blob)
  local place = string.match(redis.call('HGET', BLOBS, digest) or '', '^%d+ %d+ (.*)$') or ''
  if place == '' or place == lost then
    place = ''
    wanted = wanted + size
  end
  places[i] = place
end
local used = tonumber(redis.call('HGET', COUNTS, 'blob_bytes:redis') or 0)
if wanted > 0 and arg.cap > 0 and used + wanted > arg.cap then return { used, wanted, {} } end

local until_then = integer(now + arg.grace)
for i, blob in ipairs(arg.blobs) do
  if places[i] == '' then
    redis.call('ZADD', COMING, until_then, blob[3])
  else
    for _, holder in ipairs(blob[5]) do redis.call('ZADD', KEYS[FIRST + i - 1], until_then, holder) end
  end
end
return { used, wanted, places }
