-- Accepts one batch: from here on the mail is the ledger's. Idempotent by id.
--
-- arg: id, priority, counts (recipients of each message, "1,1,3"), size (recipients), fingerprint,
--      send_at (ms, 0: now), lifetime (ms), margin (ms until a lost hint is noticed)
-- ARGV[2] header, ARGV[3] recipients, ARGV[4…] one body a message
-- Returns {'new' | 'same' | 'conflict', 1 if it wants a hint now}: same, if the id is held by the same content.
local key, states_key = KEYS[FIRST_BATCH_KEY], KEYS[FIRST_BATCH_KEY + 1]
local held = redis.call('HMGET', key, 'k', 'g')
if held[1] then
  if held[1] ~= arg.fingerprint then return { 'conflict', 0 } end
  return { 'same', tonumber(held[2] or 0) > 0 and 1 or 0 }
end

local send_at = arg.send_at
if send_at <= now then send_at = now end
local fields = {
  'p', arg.priority, 'm', arg.counts, 'k', arg.fingerprint, 'h', ARGV[2], 'r', ARGV[3],
  'a', integer(now), 'w', integer(send_at), 'x', integer(send_at + arg.lifetime),
}
for i = 4, #ARGV do
  table.insert(fields, 'c' .. (i - 4))
  table.insert(fields, ARGV[i])
end
local due, hint = send_at, 0
if is_paused(arg.priority) then
  redis.call('ZADD', GATE_PAUSE[arg.priority], integer(now), arg.id)
  due = send_at + arg.lifetime
elseif send_at == now then
  due, hint = now + arg.margin, 1
  table.insert(fields, 'g')
  table.insert(fields, 1)
end
redis.call('HSET', key, unpack(fields))
redis.call('SET', states_key, string.rep(QUEUED, arg.size))
redis.call('ZADD', DUE[arg.priority], integer(due), arg.id)
tally(COUNTS, 'accepted', arg.size)
tally(COUNTS, NAMES[QUEUED], arg.size)
tally(COUNTS, 'unfinished:' .. arg.priority, arg.size)
tally(MINUTE, 'accepted', arg.size)
redis.call('EXPIRE', MINUTE, 86400)
return { 'new', hint }
