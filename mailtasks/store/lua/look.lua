-- Looks at batches that are due: turns a lapsed claim into doubt, lets what is too old expire, parks
-- what is paused, and says which batches want a hint. One that a hand has damaged is set aside, and
-- looked at again in an hour.
--
-- arg: ids (in the order of the batches in KEYS), busy {PRIORITY = 0 or 1}: its queue is long, so that a
--      hint may merely be waiting in it
-- Returns {{id, priority, id, priority, …}: what to hint, {id, error, id, error, …}: what is damaged}.
write_though_full()
local hints, damaged = {}, {}
local LONGEST_MARGIN = 3600 * 1000

if has_jumped() then redis.call('HSET', STEERING, 'quiet', integer(now + arg.lease)) end
redis.call('HSET', STEERING, 'looked', integer(now))
local quiet = is_quiet()

local function look(batch)
  if batch.token then
    if batch.lease > now then return save(batch, batch.lease) end
    if quiet then return save(batch, now + arg.lease) end
    lapse(batch)
  end
  if now >= batch.expires then
    if quiet then return save(batch, now + arg.lease) end
    expire(batch)
    return save(batch)
  end
  local at = next_look(batch)
  if not at or at > now then return save(batch) end
  if is_paused(batch.priority) then return park(batch, GATE_PAUSE) end
  if batch.lapses >= LAPSES_BEFORE_ASIDE then return park(batch, GATE_ASIDE) end
  local waiting = arg.busy[batch.priority] == 1 and batch.hints > 0
  if waiting and now - batch.not_before < LONGEST_MARGIN then
    return save(batch, math.min(now + arg.margin, batch.expires))
  end
  -- Each hint that came to nothing doubles the margin: re-hinting must not outgrow the workers.
  local margin = math.min(arg.margin * 2 ^ math.min(batch.hints, 12), LONGEST_MARGIN)
  set_field(batch, 'g', batch.hints + 1)
  save(batch, math.min(now + margin, batch.expires))
  table.insert(hints, batch.id)
  table.insert(hints, batch.priority)
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
  end
end

local function set_aside(id, why)
  for priority, due in pairs(DUE) do
    if is_due(priority, id) then
      redis.call('ZADD', due, integer(now + LONGEST_MARGIN), id)
      redis.call('ZADD', GATE_ASIDE[priority], 'NX', integer(now), id)
      table.insert(damaged, id)
      table.insert(damaged, type(why) == 'table' and why.err or why)
    end
  end
end

for i, id in ipairs(arg.ids) do
  local looked, why = pcall(look_if_due, id, FIRST_BATCH_KEY + (i - 1) * 3)
  if not looked then set_aside(id, why) end
end
return { hints, damaged }
