-- Looks for what the other moves should have prevented. What it finds is mended, or filed under due so that
-- a look acts, and counted: that must stay 0. What depends on time is judged only while a pump looks.
--
-- arg: ids (in the order of the batches in KEYS), cursor (where the round goes on; '0': it is over,
--      '': this is no part of the pumps' round)
-- Returns {id, what, id, what, …}.
write_though_full()
local HOUR = 3600 * 1000
local LONG_PAST = math.max(5 * arg.margin, arg.lease, 2 * arg.jump)
local FIRST_LOOKED_AT = 50 -- of a priority, whatever is due in the others: see LOOK_AT_MOST in ledger.py
local limited = tonumber(redis.call('HGET', STEERING, 'limited')) or -LONG_PAST
local looking = redis.call('HEXISTS', STEERING, 'looked') == 1 and not is_quiet() and now - limited > LONG_PAST
local found, swept = {}, 0

local function note(id, what)
  table.insert(found, id)
  table.insert(found, what)
  swept = swept + 1
end

local function file(batch, what)
  note(batch.id, what)
  redis.call('ZADD', DUE[batch.priority], integer(now), batch.id)
end

-- Whether one of its records has this kind of lifetime: `is_so` of PTTL's -1 (for ever) or milliseconds.
local function any_lives(batch, is_so)
  for _, key in ipairs({ batch.key, batch.states_key, batch.tries_key }) do
    if is_so(redis.call('PTTL', key)) then return true end
  end
end

local function for_ever(ms) return ms == -1 end
local function for_a_while(ms) return ms >= 0 end

local function waits_for_its_turn(batch)
  return batch.campaign and redis.call('ZSCORE', batch.campaign.gate, batch.id)
end

local function waits_at_a_gate(batch)
  for _, gate in ipairs({ GATE_PAUSE, GATE_ASIDE, GATE_RATE }) do
    if redis.call('ZSCORE', gate[batch.priority], batch.id) then return true end
  end
end

-- Until when it must be looked at, at the latest.
local function latest_look(batch)
  if batch.token then return batch.lease end
  if waits_for_its_turn(batch) then return math.min(batch.ends, batch.at_gate_since + LONGEST_AT_GATE) end
  if batch.hints > 0 or waits_at_a_gate(batch) then return batch.expires end
  return next_look(batch)
end

local function judge_doubt(batch)
  if not redis.call('ZSCORE', WITH[IN_DOUBT], batch.id) then
    note(batch.id, 'it holds doubt, and was listed nowhere')
    list_under(batch, IN_DOUBT)
  end
end

local function judge_unfinished(batch)
  local due = redis.call('ZSCORE', DUE[batch.priority], batch.id)
  if not due then return file(batch, 'it is unfinished, and was never to be looked at again') end
  if has(batch, SENDING) and not batch.token then return file(batch, 'it was being sent under no lease') end
  if not looking then return end
  local at = tonumber(due)
  if batch.campaign and at > now and not batch.token then
    if batch.campaign.state == '' and not waits_at_a_gate(batch) then
      return file(batch, 'there is no record of its campaign')
    end
    if batch.at_gate_since and not waits_for_its_turn(batch) and not waits_at_a_gate(batch) then
      return file(batch, 'it waits for its turn, and no campaign would have fed it')
    end
  end
  if at < now - LONG_PAST then
    if redis.call('ZRANK', DUE[batch.priority], batch.id) < FIRST_LOOKED_AT then
      note(batch.id, 'it was due long ago, and nothing came of it') -- it is due still, and rightly
    end
  elseif at > math.max(now, latest_look(batch)) + HOUR then
    file(batch, now >= batch.expires and 'it is unfinished past its maximum age'
      or 'it was to be looked at long after its time')
  end
end

-- A hand has deleted the record that says what the others are about.
local function judge_remains(id, first)
  local remains = { key = KEYS[first], states_key = KEYS[first + 1], tries_key = KEYS[first + 2], states = '' }
  if any_lives(remains, for_ever) then
    note(id, 'its record is gone, and what belongs to it would have been kept for ever')
    keep_for_retention(remains)
  end
end

local function judge(id, first)
  local batch = load(id, first)
  if not batch then return judge_remains(id, first) end
  local unfinished, doubt = string.find(batch.states, ANY_UNFINISHED), has(batch, IN_DOUBT)
  if doubt then judge_doubt(batch) end
  local for_good = unfinished or doubt or not is_counted(batch)
  if for_good and any_lives(batch, for_a_while) then
    note(id, 'it is neither finished nor settled, and was to vanish')
    keep_for_ever(batch)
  end
  if unfinished then return judge_unfinished(batch) end
  if not for_good and any_lives(batch, for_ever) then
    note(id, 'it is finished, and would have been kept for ever')
    finish(batch)
  end
end

-- What can't be read is set aside by the next look, unless it is so already, or goes by itself.
local function file_damaged(id, key, why)
  for _, due in pairs(DUE) do
    if redis.call('ZSCORE', due, id) then return end
  end
  if redis.call('PTTL', key) ~= -1 then return end
  note(id, type(why) == 'table' and why.err or why)
  redis.call('ZADD', DUE.normal, integer(now), id)
end

for i, id in ipairs(arg.ids) do
  local first = FIRST_BATCH_KEY + (i - 1) * 3
  local judged, why = pcall(judge, id, first)
  if not judged then file_damaged(id, KEYS[first], why) end
end
if swept > 0 then
  add_up(COUNTS, { swept = swept })
  redis.call('HSET', STEERING, 'sweep:found', integer(now))
end
if arg.cursor ~= '' then
  local at = arg.cursor == '0' and now + HOUR or now
  redis.call('HSET', STEERING, 'sweep:cursor', arg.cursor, 'sweep:at', integer(at))
end
return found
