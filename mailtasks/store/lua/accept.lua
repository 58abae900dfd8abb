-- Accepts one batch: from here on the mail is the ledger's. Idempotent by id.
--
-- arg: id, priority, runs (messages, in runs of as many recipients each: "1x300", "1x2,3x1"), size
--      (recipients), fingerprint, send_at (ms, 0: now), lifetime (ms), tell (whether anybody listens)
-- and, if it is a campaign's, campaign (its uid), ends (ms; 0: it doesn't); ARGV[4] is then the rows' values
-- and, once the suppression list isn't empty, mailboxes {one a recipient, as that list has them};
-- and, if its messages need attachments that are stored apart, blobs {{digest, holder}, …}
-- KEYS behind the batch's: suppressed [hash]; then, with blobs: blobs [hash], and per blob its holders [zset]
-- ARGV[2] header, ARGV[3] recipients, ARGV[4…] one body a message
-- Returns {'new' | 'same' | 'conflict' | 'blobless' | 'unnamed' | 'gap' | 'closed', 1 if it wants a hint now}: same,
-- if the id is held by the same content; blobless, if an attachment isn't stored (any more), and unnamed, if
-- mailboxes are wanted: then nothing was accepted; gap, if the campaign's batch before isn't accepted; closed, if it
-- takes no more. Behind that, of a new one, to who listens: who is suppressed from the beginning, {{index, state,
-- attempts, reason}, …}.
local key, states_key, tries_key = KEYS[FIRST_BATCH_KEY], KEYS[FIRST_BATCH_KEY + 1], KEYS[FIRST_BATCH_KEY + 2]
local SUPPRESSED_LIST, BLOBS = KEYS[FIRST_BATCH_KEY + 3], FIRST_BATCH_KEY + 4
local campaign = arg.campaign and campaign_by(arg.campaign)
local has_list = redis.call('EXISTS', SUPPRESSED_LIST) == 1
local told = {}

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
  if has_list and not arg.mailboxes then return { 'unnamed', 0 } end -- before 'gap': those behind it are as well
  local before = told_by_campaign()
  if before then return { before, 0 } end
end

local held = not campaign and redis.call('HMGET', key, 'k', 'g') or {}
if held[1] then
  if held[1] ~= arg.fingerprint then return { 'conflict', 0 } end
  return { 'same', tonumber(held[2] or 0) > 0 and 1 or 0 }
end

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
        if arg.tell then table.insert(told, { index, SUPPRESSED, 0, it.listed[3] or '' }) end
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
local due, hint, paused, mark = not_before, 0, not campaign and (steering[1] or steering[2]), steering[3]
if campaign then due = math.min(arg.ends > 0 and arg.ends or math.huge, not_before + LONGEST_AT_GATE)
elseif paused then due = expires
elseif not_before == now then due, hint = math.min(now + arg.margin, expires), left > 0 and 1 or 0 end

-- Of a campaign's batch that is over, nothing is kept but its states (see shed in common.lua).
local is_shed = campaign and left == 0
redis.call('HSET', key, 'p', arg.priority, 'm', arg.runs, 'k', arg.fingerprint, 'h', ARGV[2],
  'a', integer(now), 'w', integer(not_before), 'x', integer(expires), 'g', hint)
if not is_shed then
  redis.call('HSET', key, 'r', ARGV[3])
  call_in_slices('HSET', tries_key, tries)
end
if campaign and left > 0 then
  redis.call('HSET', key, 'd', ARGV[4], 'q', integer(not_before))
  if arg.ends > 0 then redis.call('HSET', key, 'i', integer(arg.ends)) end
elseif not campaign then
  for i = 4, #ARGV do redis.call('HSET', key, 'c' .. (i - 4), ARGV[i]) end
end
if mark then redis.call('HSET', key, 'v', mark) end
redis.call('SET', states_key, states)
if left > 0 then
  redis.call('ZADD', DUE[arg.priority], integer(due), arg.id)
  if paused then redis.call('ZADD', GATE_PAUSE[arg.priority], integer(now), arg.id) end
  if campaign then redis.call('ZADD', campaign.gate, campaign.next, arg.id) end
else
  redis.call('HSET', key, 'f', integer(now))
  if not campaign then -- its retention begins when it is counted
    keep_for_retention({ key = key, states_key = states_key, tries_key = tries_key, states = states })
  end
end
if campaign then
  redis.call('APPEND', campaign.prints_key, arg.fingerprint)
  redis.call('HSET', campaign.key, 'next', campaign.next + 1)
  redis.call('HINCRBY', campaign.key, 'rows', arg.size)
  if campaign.state == 'active' and left > 0 then wants_turns(campaign, arg.priority) end
end

local counts, minute = { accepted = arg.size }, { accepted = arg.size }
tally(counts, NAMES[QUEUED], left)
tally(counts, 'unfinished:' .. arg.priority, left)
tally(counts, NAMES[SUPPRESSED], suppressed)
tally(minute, NAMES[SUPPRESSED], suppressed)
add_up(COUNTS, counts)
add_up_minute(minute)
return { 'new', hint, told }
