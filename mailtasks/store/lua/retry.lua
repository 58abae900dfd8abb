-- An operator's retry: recipients become queued again, with attempts and maximum age anew. A batch that
-- was set aside comes back with it. From doubt it is a resend: should it end in doubt again, it is held.
--
-- arg: id, wanted {{index, state it was seen in, resends it was seen with (-1: any)}, …}; one that has moved
--      on since is left alone, also if it is in doubt once more. `queued` is taken for a recipient of a batch
--      that is set aside, and then needs no move
-- Returns {number retried, number without a body (gone, so it can't be sent again)}, or {-1, 0} if there
-- is no such batch.
write_though_full()
local batch = load(arg.id, FIRST_BATCH_KEY)
if not batch then return { -1, 0 } end

local is_aside = batch.lapses >= LAPSES_BEFORE_ASIDE
  or redis.call('ZSCORE', GATE_ASIDE[batch.priority], batch.id)

local function has_body(index)
  local campaign = batch.campaign
  if campaign then
    return campaign.state ~= 'cancelled' and redis.call('HEXISTS', batch.key, 'd') == 1
      and redis.call('EXISTS', campaign.template_key) == 1
  end
  return redis.call('HEXISTS', batch.key, 'c' .. message_of(batch, index)) == 1
end

local function queue(index, seen)
  if seen ~= QUEUED then move(batch, index, QUEUED) elseif not tries_of(batch, index) then return end
  local tries = new_tries(batch, index)
  tries.attempts, tries.due, tries.listed = 0, 0, nil
  if seen == IN_DOUBT then
    tries.resends = tries.resends + 1
    tally(batch.counts, 'resends', 1)
  end
end

local function is_as_seen(index, seen, resends)
  if seen ~= state_of(batch, index) or (seen == QUEUED and not is_aside) then return false end
  return resends < 0 or resends == (tries_of(batch, index) or { resends = 0 }).resends
end

local retried, bodiless = 0, 0
for _, want in ipairs(arg.wanted) do
  local index, seen, resends = unpack(want)
  if seen == SENT or seen == SENDING then illegal(batch, index, NAMES[seen] .. " can't be retried") end
  if is_as_seen(index, seen, resends) then
    if has_body(index) then
      queue(index, seen)
      retried = retried + 1
    else
      bodiless = bodiless + 1
    end
  end
end
if retried == 0 then return { retried, bodiless } end

if batch.campaign then leave_gates(batch) end
-- What is planned for later stays planned.
local from = math.max(now, batch.not_before)
batch.expires = from + batch.expires - batch.not_before
batch.not_before = from
reopen(batch) -- or it would vanish when the retention of what it was before ends
set_field(batch, 'w', integer(batch.not_before))
set_field(batch, 'x', integer(batch.expires))
forget_checked(batch)
set_field(batch, 'z', 0)
set_field(batch, 'g', 0)
if batch.campaign then
  redis.call('PERSIST', batch.campaign.template_key)
  redis.call('HDEL', batch.campaign.key, 'finished')
  redis.call('ZADD', OPEN, 'NX', integer(now), batch.campaign.uid)
end
if batch.campaign and not batch.token then
  park_at_campaign(batch)
else
  save(batch, batch.token and batch.lease)
  leave_gates(batch)
end
return { retried, bodiless }
