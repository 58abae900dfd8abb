-- Accepts one batch: from here on the mail is the ledger's. Idempotent by id.
--
-- arg: id, priority, runs (messages, in runs of as many recipients each: "1x300", "1x2,3x1"), size
--      (recipients), fingerprint, send_at (ms, 0: now), lifetime (ms)
-- and, if it is a campaign's, campaign (its uid), ends (ms; 0: it doesn't); ARGV[4] is then the rows' values
-- and, if its bodies need attachments that are stored apart, blobs {{digest, holder}, …}; then KEYS behind the
-- batch's are: blobs [hash], and per blob its holders [zset]
-- ARGV[2] header, ARGV[3] recipients, ARGV[4…] one body a message
-- Returns {'new' | 'same' | 'conflict' | 'blobless' | 'gap' | 'closed', 1 if it wants a hint now}: same, if the id is
-- held by the same content; blobless, if an attachment isn't stored (any more), so that nothing was accepted; gap,
-- if the campaign's batch before isn't accepted; closed, if it takes no more.
local key, states_key = KEYS[FIRST_BATCH_KEY], KEYS[FIRST_BATCH_KEY + 1]
local campaign = arg.campaign and campaign_by(arg.campaign)

-- What a campaign says of a batch, by its number, though its records may be gone; nil: it is the next.
local function told_by_campaign()
  local number, is_complete = number_of(arg.id), redis.call('HEXISTS', campaign.key, 'complete') == 1
  local at = number * PRINT_LENGTH
  local print = redis.call('GETRANGE', campaign.prints_key, at, at + PRINT_LENGTH - 1)
  if number < campaign.next and print ~= '' then return print == arg.fingerprint and 'same' or 'conflict' end
  if is_complete or campaign.state == '' or campaign.state == 'cancelled' then return 'closed' end
  if number > campaign.next then return 'gap' end
end

if campaign then
  local told = told_by_campaign()
  if told then return { told, 0 } end
end

local held = not campaign and redis.call('HMGET', key, 'k', 'g') or {}
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
local due, hint, paused = not_before, 0, not campaign and is_paused(arg.priority)
if campaign then due = math.min(arg.ends > 0 and arg.ends or math.huge, not_before + LONGEST_AT_GATE)
elseif paused then due = expires
elseif not_before == now then due, hint = math.min(now + arg.margin, expires), 1 end

redis.call('HSET', key, 'p', arg.priority, 'm', arg.runs, 'k', arg.fingerprint, 'h', ARGV[2], 'r', ARGV[3],
  'a', integer(now), 'w', integer(not_before), 'x', integer(expires), 'g', hint)
if campaign then
  redis.call('HSET', key, 'd', ARGV[4], 'q', integer(not_before))
  if arg.ends > 0 then redis.call('HSET', key, 'i', integer(arg.ends)) end
else
  for i = 4, #ARGV do redis.call('HSET', key, 'c' .. (i - 4), ARGV[i]) end
end
redis.call('SET', states_key, string.rep(QUEUED, arg.size))
redis.call('ZADD', DUE[arg.priority], integer(due), arg.id)
if paused then redis.call('ZADD', GATE_PAUSE[arg.priority], integer(now), arg.id) end
if campaign then
  redis.call('ZADD', campaign.gate, campaign.next, arg.id)
  redis.call('APPEND', campaign.prints_key, arg.fingerprint)
  redis.call('HSET', campaign.key, 'next', campaign.next + 1)
  redis.call('HINCRBY', campaign.key, 'rows', arg.size)
  if campaign.state == 'active' then wants_turns(campaign, arg.priority) end
end

local unfinished = 'unfinished:' .. arg.priority
add_up(COUNTS, { accepted = arg.size, [NAMES[QUEUED]] = arg.size, [unfinished] = arg.size })
add_up_minute({ accepted = arg.size })
return { 'new', hint }
