-- Lets the first batches of campaigns have their turn, one of each campaign after the other: they are due now, and
-- the next look hints them.
--
-- KEYS behind those of head.lua: those of the campaigns
-- arg: priority, most (batches), uids (of campaigns, in the order of their turns)
-- Returns {batch, …}.
write_though_full()
local LONG_AGO = now - 3600 * 1000
local turns, due, fed, waiting = TURNS[arg.priority], DUE[arg.priority], {}, {}
redis.call('ZREMRANGEBYSCORE', FED, '-inf', integer(LONG_AGO)) -- left by who was claimed by another hint
if is_paused(arg.priority) then return {} end

-- Nobody saves turns up while he can't have them.
local function catch_up(campaign, least)
  if least > campaign.turn then redis.call('ZADD', turns, 'XX', integer(least), campaign.uid) end
end

local function look_at(uid)
  local campaign = campaign_by(uid)
  campaign.turn = tonumber(redis.call('ZSCORE', turns, uid) or 0)
  campaign.batches = redis.call('ZRANGE', campaign.gate, 0, arg.most - 1)
  if campaign.state ~= 'active' or #campaign.batches == 0 then
    redis.call('ZREM', turns, uid)
  else
    local may_begin = now >= campaign.begins
    campaign.room = may_begin and math.min(arg.most, math.floor(tokens_of(campaign) + 1e-9)) or 0
    table.insert(waiting, campaign)
  end
end

local function is_before(one, other)
  return not other or one.turn < other.turn
end

local function next_campaign()
  local first
  for _, campaign in ipairs(waiting) do
    if campaign.room > 0 and #campaign.batches > 0 and is_before(campaign, first) then first = campaign end
  end
  return first
end

for _, uid in ipairs(arg.uids) do look_at(uid) end
local least = 0
while #fed < arg.most do
  local campaign = next_campaign()
  if not campaign then break end
  local id = table.remove(campaign.batches, 1)
  redis.call('ZREM', campaign.gate, id)
  if redis.call('ZSCORE', due, id) then -- else it is finished, or gone
    redis.call('ZADD', due, integer(now), id)
    redis.call('ZADD', FED, integer(now), id)
    table.insert(fed, id)
    campaign.turn, campaign.room = campaign.turn + 1, campaign.room - 1
    least = math.max(least, campaign.turn)
    redis.call('ZADD', turns, integer(campaign.turn), campaign.uid)
  end
end
for _, campaign in ipairs(waiting) do
  if campaign.room <= 0 then catch_up(campaign, least) end
end
return fed
