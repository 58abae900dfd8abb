-- What several scripts use: loading a batch, moving its recipients, writing it back. It stands behind head.lua; a
-- script gets only those of these functions that it uses (mailtasks/store/scripts.py).
--
-- A script works on a batch in memory and calls `save` once, after everything that can fail: an error
-- leaves nothing half done.

-- A number's digits: 1,500 instructions, where '%.0f' takes 4,000.
local function integer(number)
  return string.format('%d', number)
end

-- Called first by every script but accept: what is accepted must be settled though memory is full.
-- Redis refuses only a script's first write, and only one that needs memory; this one doesn't.
local function write_though_full()
  redis.call('HDEL', STEERING, '')
end

-- Lua can hand over some thousand arguments in one call, a batch may have more.
local function call_in_slices(command, key, arguments)
  for i = 1, #arguments, 1000 do
    redis.call(command, key, unpack(arguments, i, math.min(i + 999, #arguments)))
  end
end

-- Adds numbers to the fields of a hash: one read and one write, since writes are what costs (each goes to
-- the append-only file). Returns whether a field is new. What a hand has spoilt is a figure, and stops no mail.
local function add_up(hash, by_field)
  local fields, sums, is_new = {}, {}, false
  for field in pairs(by_field) do fields[#fields + 1] = field end
  if #fields == 0 then return false end
  local held = redis.pcall('HMGET', hash, unpack(fields))
  if held.err then return false end
  for i, before in ipairs(held) do
    sums[2 * i - 1] = fields[i]
    sums[2 * i] = integer((tonumber(before) or 0) + by_field[fields[i]])
    is_new = is_new or not before
  end
  redis.call('HSET', hash, unpack(sums))
  return is_new
end

local function add_up_minute(by_field)
  if add_up(MINUTE, by_field) then redis.call('EXPIRE', MINUTE, 86400) end
end

-- Redis' time jumped (a stall, a restart, a clock step) if nobody has looked for `arg.jump`: leases could
-- not be renewed meanwhile, so nothing lapses or expires for one lease after it. The first look writes
-- that down (look.lua).
local function has_jumped()
  local looked = tonumber(redis.call('HGET', STEERING, 'looked')) or now
  return math.abs(now - looked) > arg.jump
end

local function is_quiet()
  return has_jumped() or now < (tonumber(redis.call('HGET', STEERING, 'quiet')) or 0)
end

local function is_paused(priority)
  local paused = redis.call('HMGET', STEERING, 'pause:all', 'pause:' .. priority)
  return paused[1] or paused[2]
end

local campaigns = {}

-- A campaign, read once a script. Its state is '' if a hand has deleted its record.
local function campaign_by(uid)
  if not campaigns[uid] then
    local at = arg.campaigns[uid]
    local f = redis.call('HMGET', KEYS[at], 'state', 'counted', 'begins', 'rate', 'tokens', 'filled', 'next', 'brake')
    campaigns[uid] = {
      uid = uid, key = KEYS[at], gate = KEYS[at + 1], template_key = KEYS[at + 2], prints_key = KEYS[at + 3],
      state = f[1] or '',                -- active, paused or cancelled
      counted = f[1] and tonumber(f[2] or 0) or math.huge, -- batches before this one: their states are in its count:STATE
      begins = tonumber(f[3] or 0),      -- not before
      rate = tonumber(f[4] or 0) or 0,   -- messages a second; 0: any
      tokens = tonumber(f[5] or 1),      -- messages that the rate lets go,
      filled = tonumber(f[6] or now),    -- at that time
      next = tonumber(f[7] or 0),        -- batches that are accepted
      brake = f[8] or '',                -- refusals in a row that are nobody's fault: how many, and of which kind
    }
  end
  return campaigns[uid]
end

local function campaign_of(id)
  if string.sub(id, 2, 2) ~= 'u' then return nil end
  return campaign_by(string.sub(id, 3, 2 + UID_LENGTH))
end

-- Which of its campaign's batches it is.
local function number_of(id)
  local number = 0
  for digit in string.gmatch(string.sub(id, 3 + UID_LENGTH), '.') do
    number = number * 32 + string.find(ALPHABET, digit, 1, true) - 1
  end
  return number
end

-- Messages that a campaign's rate lets go now; as `mailtasks.policy.rate` has it.
local function tokens_of(campaign)
  if campaign.rate == 0 then return math.huge end
  local since = math.max(0, now - campaign.filled)
  return math.min(campaign.rate + 1, campaign.tokens + since * campaign.rate / 1000)
end

-- It has its turn when those have had theirs that wait already.
local function wants_turns(campaign, priority)
  local first = redis.call('ZRANGE', TURNS[priority], 0, 0, 'WITHSCORES')
  redis.call('ZADD', TURNS[priority], 'NX', first[2] or 0, campaign.uid)
end

-- A campaign's batch. The time that it waits at its gate doesn't make it older.
local function load_campaign(batch, since, ends)
  batch.campaign, batch.number = campaign_of(batch.id), number_of(batch.id)
  batch.at_gate_since, batch.ends = tonumber(since), tonumber(ends) or math.huge
  if batch.at_gate_since then
    local waited = math.max(0, now - batch.at_gate_since)
    batch.not_before = batch.not_before + waited
    batch.expires = math.min(batch.expires + waited, batch.at_gate_since + LONGEST_AT_GATE)
  end
  batch.expires = math.min(batch.expires, batch.ends)
end

-- The batch whose three keys start at KEYS[first], or nil if there is none. An error if a hand has
-- changed its records so that they can't be read.
local function load(id, first)
  local f = redis.call('HMGET', KEYS[first], 'p', 'a', 'w', 'x', 't', 'l', 'o', 'z', 'g', 'u', 'n', 'f', 'm', 'y', 'e', 'v',
    'q', 'i')
  if not (f[1] or f[13]) then return nil end
  local batch = {
    id = id, key = KEYS[first], states_key = KEYS[first + 1], tries_key = KEYS[first + 2],
    priority = f[1],                -- p
    accepted = tonumber(f[2]),      -- a  when it was accepted
    not_before = tonumber(f[3]),    -- w  send_at, or a
    expires = tonumber(f[4]),       -- x  the maximum age's end
    token = f[5] or nil,            -- t  who holds the lease
    lease = tonumber(f[6] or 0),    -- l  until when
    owner = f[7] or '',             -- o  the worker's name, for people
    relay = f[14] or '',            -- y  where it sends, for people
    lapses = tonumber(f[8] or 0),   -- z  claims that lapsed
    hints = tonumber(f[9] or 0),    -- g  hints since the last claim
    hinted = tonumber(f[15]) or tonumber(f[2]), -- e  when it was hinted last, or a
    applied = f[10] or '',          -- u  the last step that was applied, token:number
    next_due = tonumber(f[11] or 0), -- n  no deferred recipient is due before
    finished = f[12],               -- f  when it was finished; false: it isn't
    checked = f[16] or '',          -- v  the suppression list's mark when it was held against it; '': never
    runs = {},                      -- m  messages, in runs of as many recipients each
    states = redis.call('GET', KEYS[first + 1]),
    -- An error here, rather than at the first write, if it is no hash.
    has_tries = redis.call('HLEN', KEYS[first + 2]) > 0,
    moved = {}, tries = {}, fields = {}, gone = {}, counts = {}, minute = {},
  }
  local size = 0
  for recipients, times in string.gmatch(f[13] or '', '(%d+)x(%d+)') do
    table.insert(batch.runs, { recipients = tonumber(recipients), times = tonumber(times) })
    size = size + recipients * times
  end
  if not (DUE[batch.priority] and batch.accepted and batch.not_before and batch.expires and batch.lease
      and batch.lapses and batch.hints and batch.next_due and #(batch.states or '') == size) then
    error('mailtasks damaged: the records of batch ' .. id .. ' are damaged; mend them, or delete its keys')
  end
  if string.sub(id, 2, 2) == 'u' then load_campaign(batch, f[17], f[18]) end
  -- Accepted before the clock was set back, and not planned for later: it may go now.
  if batch.not_before == batch.accepted then batch.not_before = math.min(batch.not_before, now) end
  return batch
end

local function set_field(batch, name, value)
  local fields = batch.fields
  fields[#fields + 1], fields[#fields + 2] = name, value
end

local function tally(by_field, field, by)
  if by == 0 then return end
  by_field[field] = (by_field[field] or 0) + by
end

-- The message that recipient `index` belongs to: its number, its first index, its recipients.
local function message_of(batch, index)
  local number, first = 0, 0
  for _, run in ipairs(batch.runs) do
    local nth = math.floor((index - first) / run.recipients)
    if nth < run.times then return number + nth, first + nth * run.recipients, run.recipients end
    number, first = number + run.times, first + run.times * run.recipients
  end
end

local NO_TRIES = { 0, 0, 0, 0, '', '', '', 0, '' }

-- nil for what a hand has made unreadable: as if it had never been tried, but its batch can go on.
local function unpack_tries(packed)
  local can, t = pcall(cmsgpack.unpack, packed)
  if not can or type(t) ~= 'table' then return nil end
  for i, value in ipairs(NO_TRIES) do
    if type(t[i]) ~= type(value) then return nil end
  end
  return { due = t[1], attempts = t[2], at = t[3], resends = t[4], reply = t[5], relay = t[6],
           worker = t[7], took = t[8], claim = t[9], listed = t[10] }
end

-- Its last element is there for who is suppressed only.
local function pack_tries(t)
  return cmsgpack.pack({ t.due, t.attempts, t.at, t.resends, t.reply, t.relay, t.worker, t.took, t.claim, t.listed })
end

local function untried()
  return { due = 0, attempts = 0, at = 0, resends = 0, reply = '', relay = '', worker = '', took = 0, claim = '' }
end

-- What is known of an attempted recipient; nil if it was never attempted. Indices start at 0.
local function tries_of(batch, index)
  if batch.has_tries and not batch.tries[index] then
    local packed = redis.call('HGET', batch.tries_key, index)
    batch.tries[index] = packed and unpack_tries(packed) or nil
  end
  return batch.tries[index]
end

local function new_tries(batch, index)
  local tries = tries_of(batch, index)
  if not tries then
    tries = untried()
    batch.tries[index] = tries
  end
  tries.changed = true
  return tries
end

-- The same of many, in few calls: a mail to thousands may have as many deferred.
local function load_tries(batch, indices)
  if not batch.has_tries then return end
  for first = 1, #indices, 1000 do
    local last = math.min(first + 999, #indices)
    for i, packed in ipairs(redis.call('HMGET', batch.tries_key, unpack(indices, first, last))) do
      local index = indices[first + i - 1]
      if packed and not batch.tries[index] then batch.tries[index] = unpack_tries(packed) end
    end
  end
end

-- When a deferred recipient is due; at once, if that has been lost.
local function due_of(batch, index)
  local tries = tries_of(batch, index)
  return tries and tries.due or 0
end

-- One recipient's state, '' if the batch has no such recipient.
local function state_of(batch, index)
  return string.sub(batch.states, index + 1, index + 1)
end

local function has(batch, code)
  return string.find(batch.states, code, 1, true) ~= nil
end

-- The indices of the recipients in one state; they may be moved on the way.
local function each(batch, code)
  local at = 0
  return function()
    at = string.find(batch.states, code, at + 1, true)
    return at and at - 1
  end
end

local function illegal(batch, index, what)
  error('mailtasks illegal: ' .. what .. ' (batch ' .. batch.id .. ', recipient ' .. index .. ')')
end

-- Moves one recipient. An illegal move is an error before anything is written.
local function move(batch, index, to)
  local from = state_of(batch, index)
  if not (MOVES[from] and string.find(MOVES[from], to, 1, true)) then
    illegal(batch, index, (NAMES[from] or 'nothing') .. " can't become " .. (NAMES[to] or to))
  end
  batch.states = string.sub(batch.states, 1, index) .. to .. string.sub(batch.states, index + 2)
  tally(batch.moved, from, -1)
  tally(batch.moved, to, 1)
  batch.dirty = true
end

local function defer(batch, index, delay)
  local due = now + delay
  batch.next_due = has(batch, DEFERRED) and math.min(batch.next_due, due) or due
  set_field(batch, 'n', integer(batch.next_due))
  move(batch, index, DEFERRED)
  new_tries(batch, index).due = due
end

local function load_deferred(batch)
  local indices = {}
  for index in each(batch, DEFERRED) do table.insert(indices, index) end
  if #indices > 0 then load_tries(batch, indices) end
end

-- Some have come due since, and are queued, claimed or cancelled by now: when are the others?
local function find_next_due(batch)
  local earliest = math.huge
  load_deferred(batch)
  for index in each(batch, DEFERRED) do
    earliest = math.min(earliest, due_of(batch, index))
    if earliest <= now then return end
  end
  batch.next_due = earliest
  set_field(batch, 'n', integer(earliest))
end

-- When the batch must be looked at again; nil if it is finished (or only doubt is left, which is held).
local function next_look(batch)
  local at = nil
  local function no_later_than(other) at = at and math.min(at, other) or other end
  if has(batch, SENDING) then no_later_than(batch.lease) end
  if has(batch, QUEUED) then no_later_than(math.max(now, batch.not_before)) end
  if has(batch, DEFERRED) then
    if batch.next_due <= now then find_next_due(batch) end
    no_later_than(math.min(batch.next_due, batch.expires))
  end
  return at
end

-- Its turn has come: from now on it grows older.
local function leave_campaign_gate(batch)
  redis.call('ZREM', batch.campaign.gate, batch.id)
  redis.call('ZREM', FED, batch.id)
  if not batch.at_gate_since then return end
  batch.at_gate_since = nil
  redis.call('HSET', batch.key, 'w', integer(batch.not_before), 'x', integer(batch.expires))
  redis.call('HDEL', batch.key, 'q')
end

local function leave_gates(batch)
  if batch.campaign then leave_campaign_gate(batch) end
  local kinds = { GATE_PAUSE[batch.priority], GATE_ASIDE[batch.priority], GATE_RATE[batch.priority] }
  if redis.call('EXISTS', unpack(kinds)) == 0 then return end
  for _, gate in ipairs(kinds) do redis.call('ZREM', gate, batch.id) end
end

-- A body goes when every recipient of its message is sent; all the rest when the retention ends.
local function drop_sent_body(batch, index)
  if batch.campaign then return end -- its rows go all at once (shed)
  local number, first, recipients = message_of(batch, index)
  local states = string.sub(batch.states, first + 1, first + recipients)
  if states == string.rep(SENT, recipients) then table.insert(batch.gone, 'c' .. number) end
end

local function keep_for_ever(batch)
  for _, key in ipairs({ batch.key, batch.states_key, batch.tries_key }) do redis.call('PERSIST', key) end
end

-- Whether its states are in its campaign's record, which outlives them.
local function is_counted(batch)
  return not batch.campaign or batch.number < batch.campaign.counted
end

local function keep_for_retention(batch)
  if has(batch, IN_DOUBT) or not is_counted(batch) then return keep_for_ever(batch) end
  for _, key in ipairs({ batch.key, batch.states_key, batch.tries_key }) do
    redis.call('PEXPIRE', key, integer(arg.retention))
  end
end

local function drop_lease(batch)
  batch.token, batch.lease, batch.relay = nil, 0, ''
  for _, name in ipairs({ 't', 'l', 'o', 'y' }) do table.insert(batch.gone, name) end
end

-- Filed under the time after which the batch is surely gone, so that what is past that can be dropped here;
-- doubt is kept until it is settled.
local function list_under(batch, code)
  if not has(batch, code) then return redis.call('ZREM', WITH[code], batch.id) end
  if code == IN_DOUBT then return redis.call('ZADD', WITH[code], integer(now), batch.id) end
  local finished = not string.find(batch.states, ANY_UNFINISHED)
  local gone = (finished and now or math.max(now, batch.expires)) + arg.retention
  local for_ever = has(batch, IN_DOUBT) or not is_counted(batch)
  redis.call('ZADD', WITH[code], for_ever and '+inf' or integer(gone), batch.id)
  redis.call('ZREMRANGEBYSCORE', WITH[code], '-inf', integer(now))
end

-- Something of a finished batch is to be sent after all: it is kept, and listed, for longer.
local function reopen(batch)
  table.insert(batch.gone, 'f')
  for code in pairs(WITH) do list_under(batch, code) end
  keep_for_ever(batch)
end

local function write_states(batch)
  redis.call('SET', batch.states_key, batch.states, 'KEEPTTL')
  local unfinished = 0
  tally(batch.counts, 'in_doubt:' .. batch.priority, batch.moved[IN_DOUBT] or 0)
  for code, by in pairs(batch.moved) do
    tally(batch.counts, NAMES[code], by)
    if by > 0 and code ~= SENDING and code ~= QUEUED then tally(batch.minute, NAMES[code], by) end
    if string.find(ANY_UNFINISHED, code, 1, true) then unfinished = unfinished + by end
    if WITH[code] then list_under(batch, code) end
  end
  tally(batch.counts, 'unfinished:' .. batch.priority, unfinished)
  if batch.campaign and is_counted(batch) and batch.campaign.state ~= '' then
    local by_state = {}
    for code, by in pairs(batch.moved) do tally(by_state, 'count:' .. NAMES[code], by) end
    add_up(batch.campaign.key, by_state)
  end
end

local function write_tries(batch)
  local packed = {}
  for index, t in pairs(batch.tries) do
    if t.changed then
      table.insert(packed, index)
      table.insert(packed, pack_tries(t))
      if state_of(batch, index) == SENT then drop_sent_body(batch, index) end
    end
  end
  call_in_slices('HSET', batch.tries_key, packed)
end

-- Writes back what has changed, but leaves the batch in `due` where it is.
local function write(batch)
  if batch.dirty then write_states(batch) end
  write_tries(batch)
  call_in_slices('HDEL', batch.key, batch.gone)
  call_in_slices('HSET', batch.key, batch.fields)
  add_up(COUNTS, batch.counts)
  add_up_minute(batch.minute)
end

-- Whether a person may still ask who that was, and why.
local function is_kept(batch, index, has_tries)
  local state = state_of(batch, index)
  return state == FAILED or state == IN_DOUBT or (state == EXPIRED and has_tries and tries_of(batch, index) ~= nil)
end

-- Of a campaign's batch that is finished, states are kept; rows, addresses and replies only if some weren't sent
-- that should have been.
local function shed(batch)
  local kept, untold = 0, {}
  local has_tries = batch.has_tries or next(batch.tries) ~= nil
  for index = 0, #batch.states - 1 do
    if is_kept(batch, index, has_tries) then
      kept = kept + 1
    else
      table.insert(untold, index)
      if batch.tries[index] then batch.tries[index].changed = nil end
    end
  end
  if kept == 0 then
    redis.call('DEL', batch.tries_key)
    for _, name in ipairs({ 'r', 'd' }) do table.insert(batch.gone, name) end
  elseif has_tries then
    call_in_slices('HDEL', batch.tries_key, untold)
  end
end

local function finish(batch)
  set_field(batch, 'f', integer(now))
  if batch.campaign then shed(batch) end
  write(batch)
  leave_gates(batch)
  for code in pairs(WITH) do
    if has(batch, code) then list_under(batch, code) end -- anew, since retention starts now
  end
  keep_for_retention(batch)
end

-- Writes everything back and files the batch under `due` (or takes it out, if it is finished).
-- `at` overrides the time of the next look. Returns that time, or nil.
local function save(batch, at)
  if string.find(batch.states, ANY_UNFINISHED) then
    at = at or next_look(batch)
    -- Never under a time that is past: what is there for long was not looked at (sweep.lua).
    redis.call('ZADD', DUE[batch.priority], integer(math.max(at, now)), batch.id)
    write(batch)
    return at
  end
  redis.call('ZREM', DUE[batch.priority], batch.id)
  if batch.dirty or not batch.finished then finish(batch) else write(batch) end
end

-- Files the batch behind a gate; `due` keeps it for the end of its maximum age only.
local function park(batch, gate)
  set_field(batch, 'g', 0) -- once it is opened, it is hinted at as if for the first time
  if save(batch, batch.expires) then
    redis.call('ZADD', gate[batch.priority], 'NX', integer(now), batch.id)
  end
end

-- Files a campaign's batch behind its gate, among the others by its number.
local function park_at_campaign(batch)
  set_field(batch, 'g', 0)
  if not batch.at_gate_since then
    batch.at_gate_since = now
    set_field(batch, 'q', integer(now))
  end
  if save(batch, math.min(batch.ends, batch.at_gate_since + LONGEST_AT_GATE)) then
    redis.call('ZREM', FED, batch.id)
    redis.call('ZADD', batch.campaign.gate, batch.number, batch.id)
    if batch.campaign.state == 'active' then wants_turns(batch.campaign, batch.priority) end
  end
end

-- What may have been taken without our knowing. Resent once where the policy says so, then held.
local function doubt(batch, index, reply)
  move(batch, index, IN_DOUBT)
  local tries = new_tries(batch, index)
  tries.at, tries.reply, tries.worker = now, reply, batch.owner
  if batch.relay ~= '' then tries.relay = batch.relay end
  tally(batch.counts, 'doubts', 1)
  if arg.doubt[batch.priority] == 'resend' and tries.resends == 0 and now < batch.expires then
    move(batch, index, QUEUED)
    tries.resends = 1
    tally(batch.counts, 'resends', 1)
  else
    tally(batch.counts, 'held', 1)
  end
end

-- What becomes of a recipient without an attempt that tells of it, for whoever listens (arg.tell): the batch's
-- header and recipients, which may be gone when it is over, then {index, state, attempts, reply} of each.
local function note(batch, index, code, reply)
  if not arg.tell then return end
  batch.told = batch.told or redis.call('HMGET', batch.key, 'h', 'r')
  local tries = tries_of(batch, index)
  table.insert(batch.told, { index, code, tries and tries.attempts or 0, reply or tries and tries.reply or '' })
end

-- Which step claimed the window that is being sent.
local function window_mark(token, number)
  return string.sub(token, 1, 6) .. ':' .. number
end

-- In doubt because its owner never told: what a killed worker may cost is counted apart. Its owner may yet
-- live, and say that it never began.
local function abandon(batch, index, why)
  doubt(batch, index, why)
  local token, number = string.match(batch.applied, '^(.*):(%d+)$')
  new_tries(batch, index).claim = token and window_mark(token, number) or ''
  tally(batch.counts, 'abandoned', 1)
  note(batch, index, IN_DOUBT)
end

-- The owner didn't renew its lease in time: its whole window is in doubt before anyone may take it.
local function lapse(batch)
  batch.lapsed = true
  for index in each(batch, SENDING) do abandon(batch, index, 'the lease of ' .. batch.owner .. ' lapsed') end
  batch.lapses = batch.lapses + 1
  set_field(batch, 'z', batch.lapses)
  tally(batch.counts, 'lapses', 1)
  drop_lease(batch)
end

-- Only claims that lapse one after the other, with nothing settled between them, point at the batch.
local function forget_lapses(batch)
  if batch.lapses == 0 then return end
  batch.lapses = 0
  set_field(batch, 'z', 0)
end

local function expire(batch)
  for _, code in ipairs({ QUEUED, DEFERRED }) do
    for index in each(batch, code) do
      move(batch, index, EXPIRED)
      note(batch, index, EXPIRED)
    end
  end
end

-- Of a cancelled campaign, what isn't being sent.
local function cancel_rest(batch)
  for index in each(batch, QUEUED) do move(batch, index, CANCELLED) end
  for index in each(batch, DEFERRED) do move(batch, index, CANCELLED) end
end

-- What the suppression list says of an address: source, since when (ms), reason.
local function unpack_entry(packed)
  local can, entry = pcall(cmsgpack.unpack, packed)
  return can and type(entry) == 'table' and entry or { '', 0, '' }
end

-- So many of the latest additions are remembered one by one.
local LATEST_KEPT = 50

-- New on the suppression list: mailboxes. What was held against it before must be so again.
local function note_listed(latest, mailboxes, mark)
  if #mailboxes == 0 then return end
  for i = math.max(1, #mailboxes - LATEST_KEPT + 1), #mailboxes do
    redis.call('LPUSH', latest, mark .. ' ' .. mailboxes[i])
  end
  redis.call('LTRIM', latest, 0, LATEST_KEPT - 1)
  redis.call('HSET', STEERING, 'listed', mark)
end

-- Something is queued that wasn't when the batch was held against the suppression list.
local function forget_checked(batch)
  batch.checked = ''
  table.insert(batch.gone, 'v')
end

local function response_time(batch)
  local ms = math.max(now - batch.not_before, 0)
  -- Buckets a tenth wide: a percentile read from them is at most 10 % too high.
  local bucket = math.ceil(math.log(math.max(ms, 1)) / math.log(1.1))
  tally(batch.minute, 'rt:' .. batch.priority .. ':' .. bucket, 1)
  tally(batch.minute, 'rt_ms:' .. batch.priority, ms)
end
