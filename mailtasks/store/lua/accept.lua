-- Accepts one batch: from here on the mail is the ledger's. Idempotent by id.
--
-- arg: id, priority, runs (messages, in runs of as many recipients each: "1x300", "1x2,3x1"), size
--      (recipients), fingerprint, send_at (ms, 0: now), lifetime (ms)
-- and, once the suppression list isn't empty, mailboxes {one a recipient, as that list has them};
-- and, if its bodies need attachments that are stored apart, blobs {{digest, holder}, …}
-- KEYS behind the batch's: suppressed [hash]; then, with blobs: blobs [hash], and per blob its holders [zset]
-- ARGV[2] header, ARGV[3] recipients, ARGV[4…] one body a message
-- Returns {'new' | 'same' | 'conflict' | 'blobless' | 'unnamed', 1 if it wants a hint now}: same, if the id is
-- held by the same content; blobless, if an attachment isn't stored (any more), and unnamed, if mailboxes are
-- wanted: then nothing was accepted.
local key, states_key, tries_key = KEYS[FIRST_BATCH_KEY], KEYS[FIRST_BATCH_KEY + 1], KEYS[FIRST_BATCH_KEY + 2]
local SUPPRESSED_LIST, BLOBS = KEYS[FIRST_BATCH_KEY + 3], FIRST_BATCH_KEY + 4
local held = redis.call('HMGET', key, 'k', 'g')
if held[1] then
  if held[1] ~= arg.fingerprint then return { 'conflict', 0 } end
  return { 'same', tonumber(held[2] or 0) > 0 and 1 or 0 }
end

local has_list = redis.call('EXISTS', SUPPRESSED_LIST) == 1
if has_list and not arg.mailboxes then return { 'unnamed', 0 } end

for _, blob in ipairs(arg.blobs or {}) do
  if redis.call('HEXISTS', KEYS[BLOBS], blob[1]) == 0 then return { 'blobless', 0 } end
end

-- One state a recipient, how many are suppressed from the beginning, and why: {index, tries, index, tries, …}
local function first_states()
  if not has_list then return string.rep(QUEUED, arg.size), 0, {} end
  local states, suppressed, tries = {}, 0, {}
  for first = 1, arg.size, 1000 do
    local last = math.min(first + 999, arg.size)
    for i, entry in ipairs(redis.call('HMGET', SUPPRESSED_LIST, unpack(arg.mailboxes, first, last))) do
      local index = first + i - 2
      states[index + 1] = entry and SUPPRESSED or QUEUED
      if entry then
        local it = untried()
        it.listed = unpack_entry(entry)
        suppressed = suppressed + 1
        table.insert(tries, index)
        table.insert(tries, pack_tries(it))
      end
    end
  end
  return table.concat(states), suppressed, tries
end

local states, suppressed, tries = first_states()
for i, blob in ipairs(arg.blobs or {}) do redis.call('ZADD', KEYS[BLOBS + i], integer(now), blob[2]) end

local left = arg.size - suppressed
local not_before = math.max(arg.send_at, now)
local expires = not_before + arg.lifetime
local steering = redis.call('HMGET', STEERING, 'pause:all', 'pause:' .. arg.priority, 'listed')
local due, hint, paused, mark = not_before, 0, steering[1] or steering[2], steering[3]
if paused then due = expires
elseif not_before == now then due, hint = math.min(now + arg.margin, expires), left > 0 and 1 or 0 end

redis.call('HSET', key, 'p', arg.priority, 'm', arg.runs, 'k', arg.fingerprint, 'h', ARGV[2], 'r', ARGV[3],
  'a', integer(now), 'w', integer(not_before), 'x', integer(expires), 'g', hint)
for i = 4, #ARGV do redis.call('HSET', key, 'c' .. (i - 4), ARGV[i]) end
if mark then redis.call('HSET', key, 'v', mark) end
redis.call('SET', states_key, states)
call_in_slices('HSET', tries_key, tries)
if left > 0 then
  redis.call('ZADD', DUE[arg.priority], integer(due), arg.id)
  if paused then redis.call('ZADD', GATE_PAUSE[arg.priority], integer(now), arg.id) end
else
  redis.call('HSET', key, 'f', integer(now))
  keep_for_retention({ key = key, states_key = states_key, tries_key = tries_key, states = states })
end

local counts, minute = { accepted = arg.size }, { accepted = arg.size }
tally(counts, NAMES[QUEUED], left)
tally(counts, 'unfinished:' .. arg.priority, left)
tally(counts, NAMES[SUPPRESSED], suppressed)
tally(minute, NAMES[SUPPRESSED], suppressed)
add_up(COUNTS, counts)
add_up_minute(minute)
return { 'new', hint }
