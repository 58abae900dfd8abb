-- Looks at batches that are due: turns a lapsed claim into doubt, lets what is too old expire, parks
-- what is paused, and says which batches want a hint. One that a hand has damaged is set aside, and
-- looked at again in an hour. What waits for the end of a pause that has ended becomes due.
--
-- arg: ids (in the order of the batches in KEYS), busy {PRIORITY = ms}: for how long a hint may merely be
--      waiting in its queue; 0 if that is short; next {PRIORITY = ms}: when the hint was published that is
--      next there, if that is known, by the clock of whoever did;
--      room {PRIORITY = batches} or nil: how many hints are wanted, while none can be published;
--      tell: whether anybody listens
-- Returns {{{id, priority, 1 if before others}, …}: what to hint, {id, why, id, why, …}: what is set aside now,
--   {held, more}: the recipients in doubt, and how many more than were told of; {}: nothing is to be told,
--   {{id, {header, recipients, {index, state, attempts, reply}, …}}, …}: who expired, or is in doubt now}.
write_though_full()
local hints, aside, told = {}, {}, {}
local LONGEST_MARGIN = 3600 * 1000
local OPENED_AT_MOST = 1000
local TELL_OF_MORE, TELL_AGAIN = 60 * 1000, 3600 * 1000

local function note_aside(id, why)
  table.insert(aside, id)
  table.insert(aside, why)
end

-- If the clock was set back, what is filed under the old time would wait until then: all is looked at again.
local function file_all_under_now()
  for _, due in pairs(DUE) do
    if redis.call('EXISTS', due) == 1 then redis.call('ZUNIONSTORE', due, 1, due, 'WEIGHTS', 0) end
  end
end

if has_jumped() then
  redis.call('HSET', STEERING, 'quiet', integer(now + arg.lease))
  if now < (tonumber(redis.call('HGET', STEERING, 'looked')) or 0) then file_all_under_now() end
end
redis.call('HSET', STEERING, 'looked', integer(now))
if arg.room then redis.call('HSET', STEERING, 'limited', integer(now)) end
local quiet = is_quiet()

-- Whether a campaign's batch is to be hinted: it was just fed, or its hint was lost.
local function has_its_turn(batch)
  if batch.campaign.state ~= 'active' or is_paused(batch.priority) then return false end
  local was_fed = redis.call('ZSCORE', FED, batch.id)
  return was_fed or (batch.hints > 0 and not batch.at_gate_since)
end

local function look(batch)
  if batch.token then
    if batch.lease > now + arg.lease then -- it was written before the clock was set back
      batch.lease = now + arg.lease
      set_field(batch, 'l', integer(batch.lease))
    end
    if batch.lease > now then return save(batch, batch.lease) end
    if quiet then return save(batch, now + arg.lease) end
    lapse(batch)
  elseif has(batch, SENDING) then -- a hand has taken its lease away
    batch.owner = 'nobody'
    lapse(batch)
  end
  if now >= batch.expires then
    if quiet then return save(batch, now + arg.lease) end
    expire(batch)
    return save(batch)
  end
  if batch.campaign and batch.campaign.state == 'cancelled' then cancel_rest(batch) end
  local at = next_look(batch)
  if not at or at > now then
    if batch.campaign then leave_campaign_gate(batch) end -- it had its turn when nothing of it could go
    return save(batch)
  end
  if batch.campaign then
    if batch.campaign.state == '' then
      note_aside(batch.id, 'there is no record of its campaign')
      leave_campaign_gate(batch)
      return park(batch, GATE_ASIDE)
    end
    if not has_its_turn(batch) then return park_at_campaign(batch) end
    leave_campaign_gate(batch)
  end
  if is_paused(batch.priority) then return park(batch, GATE_PAUSE) end
  if batch.lapses >= LAPSES_BEFORE_ASIDE then
    note_aside(batch.id, batch.lapses .. ' claims of it lapsed one after the other')
    return park(batch, GATE_ASIDE)
  end
  -- What was hinted a margin before the next in its queue waits there no more.
  local overtaken = batch.hints > 0 and batch.hinted + arg.margin < (arg.next[batch.priority] or 0)
  local waiting = arg.busy[batch.priority] > 0 and batch.hints > 0 and not overtaken
  if waiting and now - batch.not_before < LONGEST_MARGIN then
    return save(batch, math.min(now + math.max(arg.margin, arg.busy[batch.priority]), batch.expires))
  end
  if arg.room then
    if arg.room[batch.priority] == 0 then return save(batch, now) end -- due it stays, its margin as it is
    arg.room[batch.priority] = arg.room[batch.priority] - 1
  end
  -- Each hint that came to nothing doubles the margin: re-hinting must not outgrow the workers.
  local margin = math.min(arg.margin * 2 ^ math.min(batch.hints, 12), LONGEST_MARGIN)
  local first = overtaken or batch.lapsed
  set_field(batch, 'e', integer(now))
  set_field(batch, 'g', batch.hints + 1)
  save(batch, math.min(now + margin, batch.expires))
  table.insert(hints, { batch.id, batch.priority, first and 1 or 0 })
end

local function is_due(priority, id)
  return tonumber(redis.call('ZSCORE', DUE[priority], id) or now + 1) <= now
end

local function look_if_due(id, first)
  local batch = load(id, first)
  if not batch then
    for _, due in pairs(DUE) do redis.call('ZREM', due, id) end
  elseif is_due(batch.priority, id) then -- else another worker has looked first
    look(batch)
    if batch.told then table.insert(told, { id, batch.told }) end
  end
end

local function set_aside(id, why)
  for priority, due in pairs(DUE) do
    if is_due(priority, id) then
      redis.call('ZADD', due, integer(now + LONGEST_MARGIN), id)
      redis.call('ZADD', GATE_ASIDE[priority], 'NX', integer(now), id)
      note_aside(id, type(why) == 'table' and why.err or why)
    end
  end
end

-- Who ends a pause opens its gates after that; if he dies in between, nobody else would.
local function open_what_no_pause_holds()
  for priority, gate in pairs(GATE_PAUSE) do
    if redis.call('TYPE', gate).ok == 'zset' and not is_paused(priority) then
      for _, id in ipairs(redis.call('ZRANGE', gate, 0, OPENED_AT_MOST - 1)) do
        redis.call('ZREM', gate, id)
        redis.call('ZADD', DUE[priority], 'XX', integer(now), id)
      end
    end
  end
end

open_what_no_pause_holds()
for i, id in ipairs(arg.ids) do
  local looked, why = pcall(look_if_due, id, FIRST_BATCH_KEY + (i - 1) * 3)
  if not looked then set_aside(id, why) end
end

-- Held doubt is told of by one for all: soon after there is more of it, and once an hour while there is any.
local function doubt_to_tell()
  local counted = redis.pcall('HMGET', COUNTS, NAMES[IN_DOUBT], 'held')
  -- The figures can be reset by a hand; the list of batches tells all the same.
  local listed = redis.pcall('ZCARD', WITH[IN_DOUBT])
  local held = math.max(tonumber(counted[1]) or 0, tonumber(listed) or 0)
  if held == 0 then return {} end
  local told = redis.call('HMGET', STEERING, 'doubt:told', 'doubt:at')
  local ever = tonumber(counted[2]) or 0
  local more, since = ever - (tonumber(told[1]) or 0), math.abs(now - (tonumber(told[2]) or 0))
  if since < (more > 0 and TELL_OF_MORE or TELL_AGAIN) then return {} end
  redis.call('HSET', STEERING, 'doubt:told', integer(ever), 'doubt:at', integer(now))
  return { held, math.max(0, math.min(more, held)) }
end

return { hints, aside, doubt_to_tell(), told }
