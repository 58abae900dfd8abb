-- Stands before every script: loading a batch, moving its recipients, writing it back.
--
-- A script works on a batch in memory and calls `save` once, after everything has been checked, so
-- that an error leaves nothing half done. QUEUED … SUPPRESSED, MOVES and NAMES are set in front of
-- this text by mailtasks/store/scripts.py, from the table in mailtasks/state.py.
--
-- KEYS, the same in every script (types in brackets):
--   1 counts [hash]            states and tallies of this shard
--   2 minute [hash]            the same for one minute, for rates and response times
--   3 steering [hash]          pause:all, pause:PRIORITY, looked (ms), quiet (ms)
--   4-6 due:PRIORITY [zset]    batch -> ms, for urgent, normal, bulk
--   7-9 gate:pause:PRIORITY [zset]
--   10-12 gate:aside:PRIORITY [zset]
--   13-15 gate:rate:PRIORITY [zset]
--   16-18 with:STATE [zset]    batch -> ms, for failed, expired, in_doubt
--   19… per batch: batch [hash], states [string], tries [hash]
-- and behind those what a script's own head names.
--
-- ARGV[1] is a MessagePack map, here `arg`. All times are milliseconds of Redis' clock.
local arg = cmsgpack.unpack(ARGV[1])
local COUNTS, MINUTE, STEERING = KEYS[1], KEYS[2], KEYS[3]
local DUE = { urgent = KEYS[4], normal = KEYS[5], bulk = KEYS[6] }
local GATE_PAUSE = { urgent = KEYS[7], normal = KEYS[8], bulk = KEYS[9] }
local GATE_ASIDE = { urgent = KEYS[10], normal = KEYS[11], bulk = KEYS[12] }
local GATE_RATE = { urgent = KEYS[13], normal = KEYS[14], bulk = KEYS[15] }
local WITH = { [FAILED] = KEYS[16], [EXPIRED] = KEYS[17], [IN_DOUBT] = KEYS[18] }
local FIRST_BATCH_KEY = 19
local LAPSES_BEFORE_ASIDE = 3

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function integer(number)
  return string.format('%.0f', number)
end

local function tally(hash, field, by)
  if by ~= 0 then redis.call('HINCRBY', hash, field, by) end
end

-- Redis' time jumped (a stall, a restart, a clock step) if nobody has looked for a whole lease: leases
-- could not be renewed meanwhile, so nothing lapses or expires for one lease after it. The first look
-- writes that down (look.lua).
local function has_jumped()
  local looked = tonumber(redis.call('HGET', STEERING, 'looked') or now)
  return now < looked or now - looked > arg.lease
end

local function is_quiet()
  return has_jumped() or now < tonumber(redis.call('HGET', STEERING, 'quiet') or 0)
end

local function is_paused(priority)
  local paused = redis.call('HMGET', STEERING, 'pause:all', 'pause:' .. priority)
  return paused[1] or paused[2]
end

-- The batch whose three keys start at KEYS[first], or nil if there is none.
local function load(id, first)
  local f = redis.call('HMGET', KEYS[first], 'p', 'a', 'w', 'x', 't', 'l', 'o', 'z', 'g', 'u', 'm')
  if not f[1] then return nil end
  local batch = {
    id = id, key = KEYS[first], states_key = KEYS[first + 1], tries_key = KEYS[first + 2],
    priority = f[1],                -- p
    accepted = tonumber(f[2]),      -- a  when it was accepted
    not_before = tonumber(f[3]),    -- w  send_at, or a
    expires = tonumber(f[4]),       -- x  the maximum age's end
    token = f[5] or nil,            -- t  who holds the lease
    lease = tonumber(f[6] or 0),    -- l  until when
    owner = f[7] or '',             -- o  the worker's name, for people
    lapses = tonumber(f[8] or 0),   -- z  claims that lapsed
    hints = tonumber(f[9] or 0),    -- g  hints since the last claim
    applied = f[10] or '',          -- u  the last step that was applied, token:number
    counts = {},                    -- m  recipients of each message
    states = {}, moved = {}, sent = {}, tries = {}, dirty = false, fields = {},
  }
  for count in string.gmatch(f[11], '%d+') do table.insert(batch.counts, tonumber(count)) end
  local states = redis.call('GET', batch.states_key)
  for i = 1, #states do batch.states[i] = string.sub(states, i, i) end
  return batch
end

local function set_field(batch, name, value)
  table.insert(batch.fields, name)
  table.insert(batch.fields, value)
end

-- What is known of an attempted recipient; nil if it was never attempted. Indices start at 0.
local function tries_of(batch, index)
  local known = batch.tries[index]
  if known then return known end
  local packed = redis.call('HGET', batch.tries_key, index)
  if not packed then return nil end
  local t = cmsgpack.unpack(packed)
  known = { due = t[1], attempts = t[2], at = t[3], resends = t[4], reply = t[5], relay = t[6],
            worker = t[7], took = t[8] }
  batch.tries[index] = known
  return known
end

local function new_tries(batch, index)
  local tries = tries_of(batch, index)
  if not tries then
    tries = { due = 0, attempts = 0, at = 0, resends = 0, reply = '', relay = '', worker = '', took = 0 }
    batch.tries[index] = tries
  end
  tries.changed = true
  return tries
end

-- Moves one recipient. An illegal move is an error before anything is written.
local function move(batch, index, to)
  local from = batch.states[index + 1]
  if not from or not string.find(MOVES[from], to, 1, true) then
    error('mailtasks: ' .. (NAMES[from] or 'nothing') .. " can't become " .. (NAMES[to] or to)
      .. ' (batch ' .. batch.id .. ', recipient ' .. index .. ')')
  end
  batch.states[index + 1] = to
  batch.moved[from] = (batch.moved[from] or 0) - 1
  batch.moved[to] = (batch.moved[to] or 0) + 1
  batch.dirty = true
  if to == SENT then batch.sent[index + 1] = true end
end

local function has(batch, code)
  for _, state in ipairs(batch.states) do
    if state == code then return true end
  end
  return false
end

local function is_sendable(batch, index)
  local state = batch.states[index + 1]
  if state == QUEUED then return batch.not_before <= now end
  return state == DEFERRED and tries_of(batch, index).due <= now
end

-- When the batch must be looked at again; nil if it is finished (or only doubt is left, which is held).
local function next_look(batch)
  local earliest = nil
  for i, state in ipairs(batch.states) do
    local at = nil
    if state == QUEUED then at = math.max(now, batch.not_before)
    elseif state == DEFERRED then at = math.min(tries_of(batch, i - 1).due, batch.expires)
    elseif state == SENDING then at = batch.lease end
    if at and (not earliest or at < earliest) then earliest = at end
  end
  return earliest
end

local function set_due(batch, at)
  redis.call('ZADD', DUE[batch.priority], integer(at), batch.id)
end

-- A body goes when every recipient of its message is sent; all the rest when the retention ends.
local function drop_sent_bodies(batch)
  local first, gone = 1, {}
  for message, count in ipairs(batch.counts) do
    local touched, all_sent = false, true
    for i = first, first + count - 1 do
      touched = touched or batch.sent[i]
      all_sent = all_sent and batch.states[i] == SENT
    end
    if touched and all_sent then table.insert(gone, 'c' .. (message - 1)) end
    first = first + count
  end
  if #gone > 0 then redis.call('HDEL', batch.key, unpack(gone)) end
end

local function keep_for_retention(batch)
  for _, key in ipairs({ batch.key, batch.states_key, batch.tries_key }) do
    if has(batch, IN_DOUBT) then redis.call('PERSIST', key)
    else redis.call('PEXPIRE', key, integer(arg.retention)) end
  end
end

local function drop_lease(batch)
  batch.token, batch.lease = nil, 0
  batch.no_lease = true
end

-- Doubt stays listed until it is settled; the others as long as their batch is kept.
local function list_under(batch, code)
  if not has(batch, code) then return redis.call('ZREM', WITH[code], batch.id) end
  redis.call('ZADD', WITH[code], integer(now), batch.id)
  if code ~= IN_DOUBT then redis.call('ZREMRANGEBYSCORE', WITH[code], '-inf', integer(now - arg.retention)) end
end

-- Writes everything back and files the batch under `due` (or takes it out, if it is finished).
-- `at` overrides the time of the next look.
local function save(batch, at)
  if batch.dirty then
    redis.call('SET', batch.states_key, table.concat(batch.states), 'KEEPTTL')
    local unfinished = 0
    for code, by in pairs(batch.moved) do
      tally(COUNTS, NAMES[code], by)
      if by > 0 and code ~= SENDING and code ~= QUEUED then tally(MINUTE, NAMES[code], by) end
      if UNFINISHED[code] then unfinished = unfinished + by end
      if WITH[code] then list_under(batch, code) end
    end
    tally(COUNTS, 'unfinished:' .. batch.priority, unfinished)
    redis.call('EXPIRE', MINUTE, 86400)
    if batch.moved[SENT] then drop_sent_bodies(batch) end
  end
  for index, t in pairs(batch.tries) do
    if t.changed then
      redis.call('HSET', batch.tries_key, index,
        cmsgpack.pack({ t.due, t.attempts, t.at, t.resends, t.reply, t.relay, t.worker, t.took }))
    end
  end
  if batch.no_lease then redis.call('HDEL', batch.key, 't', 'l', 'o') end
  if #batch.fields > 0 then redis.call('HSET', batch.key, unpack(batch.fields)) end
  at = at or next_look(batch)
  if at and next_look(batch) then
    set_due(batch, at)
  else
    redis.call('ZREM', DUE[batch.priority], batch.id)
    redis.call('ZREM', GATE_PAUSE[batch.priority], batch.id)
    redis.call('ZREM', GATE_ASIDE[batch.priority], batch.id)
    redis.call('HSET', batch.key, 'f', integer(now))
    keep_for_retention(batch)
  end
end

-- Files the batch behind a gate; `due` keeps it for the end of its maximum age only.
local function park(batch, gate)
  redis.call('ZADD', gate, 'NX', integer(now), batch.id)
  save(batch, batch.expires)
end

-- What may have been taken without our knowing. Resent once where the policy says so, then held.
local function doubt(batch, index, reply)
  move(batch, index, IN_DOUBT)
  local tries = new_tries(batch, index)
  tries.at, tries.reply, tries.worker = now, reply or tries.reply, batch.owner
  tally(COUNTS, 'doubts', 1)
  if arg.doubt[batch.priority] == 'resend' and tries.resends == 0 and now < batch.expires then
    move(batch, index, QUEUED)
    tries.resends = 1
    tally(COUNTS, 'resends', 1)
  end
end

-- The owner didn't renew its lease in time: its whole window is in doubt before anyone may take it.
local function lapse(batch)
  for i, state in ipairs(batch.states) do
    if state == SENDING then doubt(batch, i - 1, 'the lease of ' .. batch.owner .. ' lapsed') end
  end
  batch.lapses = batch.lapses + 1
  set_field(batch, 'z', batch.lapses)
  tally(COUNTS, 'lapses', 1)
  drop_lease(batch)
end

local function expire(batch)
  for i, state in ipairs(batch.states) do
    if state == QUEUED or state == DEFERRED then move(batch, i - 1, EXPIRED) end
  end
end

local function response_time(batch)
  local ms = math.max(now - batch.not_before, 0)
  -- Buckets a tenth wide: a percentile read from them is at most 10 % too high.
  local bucket = math.ceil(math.log(math.max(ms, 1)) / math.log(1.1))
  tally(MINUTE, 'rt:' .. batch.priority .. ':' .. bucket, 1)
  tally(MINUTE, 'rt_ms:' .. batch.priority, ms)
end
