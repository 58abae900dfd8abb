-- Looks at batches that are due: turns a lapsed claim into doubt, lets what is too old expire, parks
-- what is paused, and says which batches want a hint.
--
-- arg: ids (in the order of the batches in KEYS), lease (ms), margin (ms), busy {PRIORITY = 0 or 1}: its
--      queue is long, so that a hint may merely be waiting in it
-- Returns {id, priority, id, priority, …}: what to hint.
local hints = {}
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
  if is_paused(batch.priority) then return park(batch, GATE_PAUSE[batch.priority]) end
  if batch.lapses >= LAPSES_BEFORE_ASIDE then return park(batch, GATE_ASIDE[batch.priority]) end
  -- Each hint that came to nothing doubles the margin: re-hinting must not outgrow the workers.
  local margin = math.min(arg.margin * 2 ^ math.min(batch.hints, 12), LONGEST_MARGIN)
  local waiting = arg.busy[batch.priority] == 1 and batch.hints > 0
  if waiting and now - batch.not_before < LONGEST_MARGIN then return save(batch, now + arg.margin) end
  set_field(batch, 'g', batch.hints + 1)
  save(batch, now + margin)
  table.insert(hints, batch.id)
  table.insert(hints, batch.priority)
end

for i, id in ipairs(arg.ids) do
  local batch = load(id, FIRST_BATCH_KEY + (i - 1) * 3)
  if batch then
    -- Another worker may have looked first; a parked batch is due at the end of its age only.
    local score = tonumber(redis.call('ZSCORE', DUE[batch.priority], id) or now + 1)
    if score <= now then look(batch) end
  else
    for _, due in pairs(DUE) do redis.call('ZREM', due, id) end
  end
end
return hints
