-- Accepts one batch: from here on the mail is the ledger's. Idempotent by id.
--
-- arg: id, priority, runs (messages, in runs of as many recipients each: "1x300", "1x2,3x1"), size
--      (recipients), fingerprint, send_at (ms, 0: now), lifetime (ms)
-- and, if its bodies need attachments that are stored apart, blobs {{digest, holder}, …}; then KEYS behind the
-- batch's are: blobs [hash], and per blob its holders [zset]
-- ARGV[2] header, ARGV[3] recipients, ARGV[4…] one body a message
-- Returns {'new' | 'same' | 'conflict' | 'blobless', 1 if it wants a hint now}: same, if the id is held by the
-- same content; blobless, if an attachment isn't stored (any more), so that nothing was accepted.
local key, states_key = KEYS[FIRST_BATCH_KEY], KEYS[FIRST_BATCH_KEY + 1]
local held = redis.call('HMGET', key, 'k', 'g')
if held[1] then
  if held[1] ~= arg.fingerprint then return { 'conflict', 0 } end
  return { 'same', tonumber(held[2] or 0) > 0 and 1 or 0 }
end

for _, blob in ipairs(arg.blobs or {}) do
  if redis.call('HEXISTS', KEYS[FIRST_BATCH_KEY + 3], blob[1]) == 0 then return { 'blobless', 0 } end
end
for i, blob in ipairs(arg.blobs or {}) do
  redis.call('ZADD', KEYS[FIRST_BATCH_KEY + 3 + i], integer(now), blob[2])
end

local not_before = math.max(arg.send_at, now)
local expires = not_before + arg.lifetime
local due, hint, paused = not_before, 0, is_paused(arg.priority)
if paused then due = expires
elseif not_before == now then due, hint = math.min(now + arg.margin, expires), 1 end

redis.call('HSET', key, 'p', arg.priority, 'm', arg.runs, 'k', arg.fingerprint, 'h', ARGV[2], 'r', ARGV[3],
  'a', integer(now), 'w', integer(not_before), 'x', integer(expires), 'g', hint)
for i = 4, #ARGV do redis.call('HSET', key, 'c' .. (i - 4), ARGV[i]) end
redis.call('SET', states_key, string.rep(QUEUED, arg.size))
redis.call('ZADD', DUE[arg.priority], integer(due), arg.id)
if paused then redis.call('ZADD', GATE_PAUSE[arg.priority], integer(now), arg.id) end

local unfinished = 'unfinished:' .. arg.priority
add_up(COUNTS, { accepted = arg.size, [NAMES[QUEUED]] = arg.size, [unfinished] = arg.size })
add_up_minute({ accepted = arg.size })
return { 'new', hint }
