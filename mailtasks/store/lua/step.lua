-- Settles the last window of a claim and claims the next, in one call; gives the lease back by itself
-- when nothing is left to claim.
--
-- arg: id, token, number (of this step; sending the same one again changes nothing), owner,
--      relay (where it sends, for people),
--      results {{index, state, delay (ms, if deferred), counted (0 or 1), reply, relay, took (ms), and of a
--      refusal for which the address is to blame {mailbox, reason, days, nth}}, …}: that is put on the
--      suppression list once it has refused on so many days, which the nth bounced of KEYS holds,
--      suppressed {{index, mailbox, 1 if it is in the window}, …} (who of all the batch the last answer's
--      check has found on the suppression list), checked {before, mark} (of that check, or {}; it doesn't count
--      if something was queued meanwhile that isn't due to it),
--      windows {PRIORITY = messages}, recipients (most of one message), more (0: settle only, then
--      give the lease back), gate ('' or 'rate' or 'aside': what is left waits behind it),
--      tell: whether anybody listens
-- KEYS behind the batch's: suppressed [hash], suppressed:latest [list]; then the bounced [string] of results
-- Returns {status, told, …}; told is who expired, is suppressed or in doubt now without an attempt that tells of it:
-- {header, recipients, {index, state, attempts, reply}, …}, or {}:
--   'gone'                       no such batch
--   'taken'                      somebody else holds the lease
--   'lost'    evidence           the token's lease is over; what it sent was taken as evidence
--   'paused'                     it waits behind its priority's gate
--   'aside'                      it does so after three lapsed claims
--   'released' hint (0 or 1), priority
--                                the lease is given back; 1: hint it, it can go on now
--   'claimed'  entries {{index, attempts, last basic code}, …}, messages {number, …}, bodies {body, …},
--              header, recipients, values, brake, check
--                                header, recipients and values (of a campaign's rows, which has no bodies) are
--                                empty but for the first step; brake: what its campaign counts, or ''. Before
--                                anything is sent the batch is to be held against the suppression list: check is
--                                {} (it was), {before, mark, {mailbox, …}} (against what was added since), or
--                                {before, mark} (against all of it)
write_though_full()
local SUPPRESSED_LIST, LATEST = KEYS[FIRST_BATCH_KEY + 3], KEYS[FIRST_BATCH_KEY + 4]
local DAY, DAYS_KEPT = 24 * 3600 * 1000, 30
local claim_mark = string.sub(arg.token, 1, 6)
local bounces = {}

-- How evidence makes a recipient `sent` by legal moves.
local WAYS_TO_SENT = {
  [SENDING] = SENT, [IN_DOUBT] = SENT,
  [QUEUED] = SENDING .. SENT, [DEFERRED] = SENDING .. SENT,
  [FAILED] = QUEUED .. SENDING .. SENT, [EXPIRED] = QUEUED .. SENDING .. SENT,
  [CANCELLED] = QUEUED .. SENDING .. SENT, [SUPPRESSED] = QUEUED .. SENDING .. SENT,
}

local batch = load(arg.id, FIRST_BATCH_KEY)
if not batch then return { 'gone', {} } end
local campaign = batch.campaign
local this_step = arg.token .. ':' .. arg.number
local repeated = batch.applied == this_step
local applied_token, applied_number = string.match(batch.applied, '^(.*):(%d+)$')
-- A copy of an earlier step that the network held back: its owner has long gone on.
if applied_token == arg.token and arg.number < tonumber(applied_number) then return { 'lost', {}, 0 } end

local function note_attempt(index, counted, reply, relay, took)
  local tries = new_tries(batch, index)
  tries.attempts = tries.attempts + counted
  tries.at, tries.reply, tries.relay, tries.worker, tries.took = now, reply, relay, arg.owner, took
  tries.claim = claim_mark
end

-- A 2xx, by whatever way it comes to be known. A second one for the same recipient is a duplicate mail,
-- unless it is this claim's own report, made again, or a person was right who said so before. Returns
-- whether it was news.
local function settle_as_sent(index, counted, reply, relay, took)
  local way = WAYS_TO_SENT[state_of(batch, index)]
  local news = way ~= nil
  if news then
    for state in string.gmatch(way, '.') do move(batch, index, state) end
    response_time(batch)
  elseif new_tries(batch, index).claim == claim_mark then
    return false
  elseif tries_of(batch, index).claim ~= BY_HAND then
    tally(batch.counts, 'duplicates', 1)
  end
  note_attempt(index, counted, reply, relay, took)
  return news
end

-- The lease is over. A `sent` of its old owner is evidence and always taken; and so is that it never began
-- what is in doubt for having been in that very window. Nothing else is.
local function take_evidence()
  local evidence, mark = 0, window_mark(arg.token, arg.number - 1)
  local doubted = batch.told
  batch.told = nil
  for _, result in ipairs(arg.results) do
    local index, to, _, counted, reply, relay, took = unpack(result)
    if state_of(batch, index) == '' then move(batch, index, to) end -- an error
    if to == SENT then
      if settle_as_sent(index, counted, reply, relay, took) then evidence = evidence + 1 end
    elseif to == QUEUED and state_of(batch, index) == IN_DOUBT and tries_of(batch, index).claim == mark then
      move(batch, index, QUEUED)
      forget_checked(batch)
      evidence = evidence + 1
    end
  end
  -- What is in doubt still, when that is known.
  for i = 3, #(doubted or {}) do
    local index, code = unpack(doubted[i])
    if state_of(batch, index) == code then note(batch, index, code) end
  end
  tally(batch.counts, 'late_evidence', evidence)
  if batch.finished and string.find(batch.states, ANY_UNFINISHED) then reopen(batch) end
  if batch.dirty or batch.lapsed then save(batch, batch.token and batch.lease) else write(batch) end
  return { 'lost', batch.told or {}, evidence }
end

local function settle()
  -- Redis may have forgotten the step before (a crash, a failover), and with it what is being sent. Then a 2xx
  -- still counts, and nothing else does.
  local forgetful = batch.applied ~= arg.token .. ':' .. (arg.number - 1)
  local indices = {}
  for i, result in ipairs(arg.results) do indices[i] = result[1] end
  load_tries(batch, indices)
  for _, result in ipairs(arg.results) do
    local index, to, delay, counted, reply, relay, took, bounce = unpack(result)
    local from = state_of(batch, index)
    if from == '' or (from ~= SENDING and from ~= SENT and not forgetful) then
      illegal(batch, index, "what isn't being sent can't become " .. (NAMES[to] or to))
    end
    if to == SENT then
      settle_as_sent(index, counted, reply, relay, took)
    elseif from == SENDING then -- if it is sent, evidence has come meanwhile, and is stronger
      if to == DEFERRED then defer(batch, index, delay)
      elseif to == IN_DOUBT then doubt(batch, index, reply)
      else move(batch, index, to) end
      if to ~= QUEUED then note_attempt(index, counted, reply, relay, took) end
      if to == FAILED and bounce then table.insert(bounces, bounce) end
    end
  end
  if #arg.results > 0 then forget_lapses(batch) end -- its owner lived to tell
end

-- What its owner has found on the suppression list. What was taken off since is given back.
local function suppress()
  for _, told in ipairs(arg.suppressed) do
    local index, mailbox, is_withheld = unpack(told)
    local state = state_of(batch, index)
    if state == QUEUED or state == DEFERRED or (state == SENDING and is_withheld == 1) then
      local entry = redis.pcall('HGET', SUPPRESSED_LIST, mailbox)
      if type(entry) == 'string' then
        local listed = unpack_entry(entry)
        move(batch, index, SUPPRESSED)
        new_tries(batch, index).listed = listed
        note(batch, index, SUPPRESSED, listed[3])
      elseif state == SENDING then
        move(batch, index, QUEUED)
      end
    end
  end
  local before, mark = unpack(arg.checked)
  if mark and before == batch.checked then
    batch.checked = mark
    set_field(batch, 'v', mark)
  end
end

-- Whether an address was refused on so many days of the last thirty.
local function is_refused_too_often(key, needed)
  local today, days = math.floor(now / DAY), {}
  local held = redis.pcall('GET', key)
  for day in string.gmatch(type(held) == 'string' and held or '', '%d+') do
    if tonumber(day) > today - DAYS_KEPT and tonumber(day) < today then table.insert(days, day) end
  end
  table.insert(days, integer(today))
  if #days >= needed then
    redis.call('DEL', key)
    return true
  end
  redis.call('SET', key, table.concat(days, ' '), 'PX', integer(DAYS_KEPT * DAY))
end

-- Called after everything that can fail, since it writes.
local function list_bounces()
  local listed = {}
  for _, bounce in ipairs(bounces) do
    local mailbox, reason, needed, nth = unpack(bounce)
    if needed == 1 or is_refused_too_often(KEYS[FIRST_BATCH_KEY + 4 + nth], needed) then
      local entry = cmsgpack.pack({ 'bounce', now, reason })
      if redis.pcall('HSETNX', SUPPRESSED_LIST, mailbox, entry) == 1 then table.insert(listed, mailbox) end
    end
  end
  note_listed(LATEST, listed, this_step)
  tally(batch.counts, 'bounced', #listed)
end

-- What its owner neither settled nor gave back by name may have been taken: it is never claimed again.
-- But if this call is repeated, what it claimed before never reached its owner, and is untouched.
local function settle_the_rest()
  for index in each(batch, SENDING) do
    if repeated then move(batch, index, QUEUED) else abandon(batch, index, batch.owner .. ' left it unsettled') end
  end
end

local function released(hint)
  return { 'released', batch.told or {}, hint, batch.priority }
end

-- Whether nothing of a campaign may go now.
local function is_held_back()
  return campaign.state ~= 'active' or is_paused(batch.priority) or tokens_of(campaign) < 1
end

local function give_back()
  settle_the_rest()
  drop_lease(batch)
  set_field(batch, 'u', this_step)
  if campaign and campaign.state == 'cancelled' then cancel_rest(batch) end
  local at = next_look(batch)
  if not at or at > now then
    save(batch)
    return released(0)
  end
  if now >= batch.expires then -- time has jumped: neither begun nor expired until that is over
    save(batch, now + arg.lease)
    return released(0)
  end
  if campaign and arg.gate ~= 'aside' and (arg.gate == 'rate' or is_held_back()) then
    park_at_campaign(batch)
    return released(0)
  end
  if arg.gate ~= '' then
    park(batch, arg.gate == 'aside' and GATE_ASIDE or GATE_RATE)
    return released(0)
  end
  set_field(batch, 'g', 1)
  set_field(batch, 'e', integer(now))
  save(batch, math.min(now + arg.margin, batch.expires))
  return released(1)
end

local function park_at(gate, why)
  drop_lease(batch)
  set_field(batch, 'u', this_step)
  if gate then park(batch, gate) else park_at_campaign(batch) end
  return { why, batch.told or {} }
end

-- The first digits of what was said last: a refusal that may have been a confusion is repeated once.
local function last_code(tries)
  return tries and string.match(tries.reply, '^%d%d%d') or ''
end

local function is_sendable(index)
  return state_of(batch, index) ~= DEFERRED or due_of(batch, index) <= now
end

-- What this step claimed already, if its answer was lost; else the next messages in order.
local function choose()
  local again, window = has(batch, SENDING), arg.windows[batch.priority]
  if campaign then window = math.min(window, math.floor(tokens_of(campaign) + 1e-9)) end
  local codes = SENDING
  if not again then
    if now >= batch.expires then return {}, {} end
    codes = batch.not_before <= now and QUEUED or ''
    if has(batch, DEFERRED) and batch.next_due <= now then
      codes = codes .. DEFERRED
      load_deferred(batch)
    end
  end
  local indices, messages, taken, at = {}, {}, 0, 0
  while codes ~= '' do
    at = string.find(batch.states, '[' .. codes .. ']', at + 1)
    if not at then break end
    if again or is_sendable(at - 1) then
      local message, first, recipients = message_of(batch, at - 1)
      if message ~= messages[#messages] then
        if not again and #messages == window then break end
        table.insert(messages, message)
        taken = 0
      end
      table.insert(indices, at - 1)
      taken = taken + 1
      -- The rest of a message to very many is claimed with the next window.
      if not again and taken == arg.recipients then at = first + recipients end
    end
  end
  return indices, messages, again
end

-- The mailboxes that were added to the suppression list since its mark was this; nil: too many to tell.
local function added_since(mark)
  local added = {}
  for _, addition in ipairs(redis.call('LRANGE', LATEST, 0, LATEST_KEPT - 1)) do
    local its_mark, mailbox = string.match(addition, '^(%S*) (.*)$')
    if its_mark == mark then return added end
    table.insert(added, mailbox)
  end
end

local function check()
  local mark = redis.call('HGET', STEERING, 'listed') or ''
  if mark == batch.checked then return {} end
  return { batch.checked, mark, added_since(batch.checked) }
end

-- What is to be sent: the messages' bodies, and with the first step {header, recipients, values}.
local function read(messages)
  local fields, bodies = arg.number == 0 and { 'h', 'r', 'd' } or {}, {}
  local before = #fields
  for i, message in ipairs(campaign and {} or messages) do fields[before + i] = 'c' .. message end
  local held = #fields > 0 and redis.call('HMGET', batch.key, unpack(fields)) or {}
  for i = before + 1, #held do bodies[i - before] = held[i] or '' end
  return bodies, before > 0 and held or {}
end

local function claim()
  local indices, messages, again = choose()
  if #indices == 0 then return give_back() end
  local entries = {}
  load_tries(batch, indices)
  for i, index in ipairs(indices) do
    if not again then move(batch, index, SENDING) end
    local tries = tries_of(batch, index)
    entries[i] = { index, tries and tries.attempts or 0, last_code(tries) }
  end
  local bodies, header = read(messages)
  if campaign and campaign.rate > 0 and not again then
    local left = tokens_of(campaign) - #messages
    redis.call('HSET', campaign.key, 'tokens', string.format('%.6f', left), 'filled', integer(now))
  end
  batch.token, batch.lease = arg.token, now + arg.lease
  set_field(batch, 't', arg.token)
  set_field(batch, 'l', integer(batch.lease))
  set_field(batch, 'o', arg.owner)
  if batch.relay ~= arg.relay then set_field(batch, 'y', arg.relay) end
  set_field(batch, 'u', this_step)
  set_field(batch, 'g', 0)
  save(batch, batch.lease)
  if arg.number == 0 then leave_gates(batch) end
  return { 'claimed', batch.told or {}, entries, messages, bodies, header[1] or '', header[2] or '', header[3] or '',
    campaign and campaign.brake or '', check() }
end

if batch.token and batch.lease <= now and not is_quiet() then lapse(batch) end
if batch.token ~= arg.token then
  if repeated then return { 'released', {}, batch.hints > 0 and 1 or 0, batch.priority } end
  if arg.number > 0 then return take_evidence() end
  if batch.token then return { 'taken', {} } end
end

batch.owner = arg.owner
if not repeated then
  settle()
  suppress()
  list_bounces()
end
if now >= batch.expires and not is_quiet() then expire(batch) end
if arg.more == 0 then return give_back() end
if not repeated then settle_the_rest() end
if not has(batch, SENDING) then
  if campaign and campaign.state == 'cancelled' then return give_back() end
  if campaign and campaign.state ~= '' and is_held_back() then return park_at(nil, 'paused') end
  if is_paused(batch.priority) then return park_at(GATE_PAUSE, 'paused') end
  if batch.lapses >= LAPSES_BEFORE_ASIDE then return park_at(GATE_ASIDE, 'aside') end
end
return claim()
