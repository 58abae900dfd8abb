-- Settles the last window of a claim and claims the next, in one call; gives the lease back by itself
-- when nothing is left to claim.
--
-- arg: id, token, number (of this step; sending the same one again changes nothing), owner, lease (ms),
--      results {{index, state, delay (ms, if deferred), counted (0 or 1), reply, relay, took (ms)}, …},
--      windows {PRIORITY = messages}, recipients (most of one message), more (0: settle only, then
--      give the lease back), margin (ms until a lost hint is noticed),
--      rated (0 or 1: what is left waits behind the rate's gate)
-- Returns {status, now, …}:
--   'gone'                       no such batch
--   'taken'                      somebody else holds the lease
--   'lost'    evidence           the token's lease is over; what it sent was taken as evidence
--   'parked'  why                behind its priority's gate: 'paused', or 'aside' after three lapsed claims
--   'released' next (ms or -1), hint (0 or 1), priority
--                                the lease is given back; -1: finished; 1: hint it, it can go on now
--   'claimed'  expires (ms), accepted (ms), entries {{index, attempts, resends}, …},
--              messages {number, …}, bodies {body, …}, header, recipients
--                                header and recipients are empty but for the first step

-- How evidence makes a recipient `sent` by legal moves. No way from `sent` or `sending`: it was, or is
-- being, sent again.
local WAYS_TO_SENT = {
  [IN_DOUBT] = SENT,
  [QUEUED] = SENDING .. SENT, [DEFERRED] = SENDING .. SENT,
  [FAILED] = QUEUED .. SENDING .. SENT, [EXPIRED] = QUEUED .. SENDING .. SENT,
  [CANCELLED] = QUEUED .. SENDING .. SENT, [SUPPRESSED] = QUEUED .. SENDING .. SENT,
}

local batch = load(arg.id, FIRST_BATCH_KEY)
if not batch then return { 'gone', now } end

local this_step = arg.token .. ':' .. arg.number
local repeated = batch.applied == this_step
local first = arg.number == 0

if batch.token and batch.lease <= now and not is_quiet() then lapse(batch) end

local mine = batch.token == arg.token
if first and not mine and not repeated then
  if batch.token then return { 'taken', now } end
  mine = true
elseif not mine and not repeated then
  -- The lease is over. A `sent` of its old owner is evidence and always taken; nothing else is.
  local evidence = 0
  for _, result in ipairs(arg.results) do
    local index, to = result[1], result[2]
    if to == SENT then
      local way = WAYS_TO_SENT[batch.states[index + 1]]
      if way then
        for state in string.gmatch(way, '.') do move(batch, index, state) end
        response_time(batch)
        evidence = evidence + 1
      else
        tally(COUNTS, 'duplicates', 1)
      end
      local tries = new_tries(batch, index)
      tries.attempts, tries.at, tries.reply, tries.relay = tries.attempts + 1, now, result[5], result[6]
      tries.worker, tries.took = arg.owner, result[7]
    end
  end
  tally(COUNTS, 'late_evidence', evidence)
  save(batch, batch.token and batch.lease or nil)
  return { 'lost', now, evidence }
elseif not mine then
  -- The step was applied, its answer was lost, and the lease had been given back with it.
  return { 'released', now, next_look(batch) or -1, 0, batch.priority }
end

batch.owner = arg.owner
if not repeated then
  for _, result in ipairs(arg.results) do
    local index, to, delay, counted, reply = result[1], result[2], result[3], result[4], result[5]
    if to == IN_DOUBT then
      doubt(batch, index, reply)
    else
      move(batch, index, to)
    end
    if to ~= QUEUED then
      local tries = new_tries(batch, index)
      tries.attempts = tries.attempts + counted
      tries.at, tries.reply, tries.relay, tries.worker, tries.took = now, reply, result[6], arg.owner, result[7]
      if to == DEFERRED then tries.due = now + delay end
      if to == SENT then response_time(batch) end
    end
  end
end

-- What its owner neither settled nor gave back by name may have been taken.
local function doubt_unsettled()
  for i, state in ipairs(batch.states) do
    if state == SENDING then doubt(batch, i - 1, batch.owner .. ' left it unsettled') end
  end
end

local function give_back()
  doubt_unsettled()
  drop_lease(batch)
  set_field(batch, 'u', this_step)
  local at, hint = next_look(batch), 0
  if at and arg.rated == 1 then
    redis.call('ZADD', GATE_RATE[batch.priority], 'NX', integer(now), batch.id)
    at = batch.expires
  elseif at and at <= now then
    at, hint = now + arg.margin, 1
    set_field(batch, 'g', 1)
  end
  save(batch, at)
  return { 'released', now, at or -1, hint, batch.priority }
end

if now >= batch.expires and not is_quiet() then expire(batch) end
if arg.more == 0 then return give_back() end

-- What its owner neither settled nor gave back by name may have been taken: it is never claimed again.
if not repeated then doubt_unsettled() end

local function park_at(gate, why)
  drop_lease(batch)
  set_field(batch, 'u', this_step)
  if next_look(batch) then park(batch, gate) else save(batch) end
  return { 'parked', now, why }
end

if not has(batch, SENDING) then
  if is_paused(batch.priority) then return park_at(GATE_PAUSE[batch.priority], 'paused') end
  if batch.lapses >= LAPSES_BEFORE_ASIDE then return park_at(GATE_ASIDE[batch.priority], 'aside') end
end

-- Claim: what this step claimed already, if its answer was lost; else the next messages in order.
local claimed, bodies, fields = {}, {}, {}
local at, messages = 0, 0
local again = has(batch, SENDING)
for message, count in ipairs(batch.counts) do
  local taken = 0
  for index = at, at + count - 1 do
    local wanted = batch.states[index + 1] == SENDING
    if not again then wanted = taken < arg.recipients and is_sendable(batch, index) end
    if wanted then
      if not again then move(batch, index, SENDING) end
      local tries = tries_of(batch, index)
      table.insert(claimed, { index, tries and tries.attempts or 0, tries and tries.resends or 0 })
      taken = taken + 1
    end
  end
  if taken > 0 then
    messages = messages + 1
    table.insert(fields, 'c' .. (message - 1))
    table.insert(bodies, message - 1)
  end
  at = at + count
  if not again and messages >= arg.windows[batch.priority] then break end
end
if #claimed == 0 then return give_back() end

local contents = redis.call('HMGET', batch.key, unpack(fields))
for i, content in ipairs(contents) do contents[i] = content or '' end
batch.token, batch.lease = arg.token, now + arg.lease
set_field(batch, 't', arg.token)
set_field(batch, 'l', integer(batch.lease))
set_field(batch, 'o', arg.owner)
set_field(batch, 'g', 0)
set_field(batch, 'u', this_step)
save(batch, batch.lease)
local header = { '', '' }
if first then header = redis.call('HMGET', batch.key, 'h', 'r') end
return { 'claimed', now, batch.expires, batch.accepted, claimed, bodies, contents, header[1], header[2] }
