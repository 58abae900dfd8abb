-- Pauses, resumes, completes or cancels a campaign. What was cancelled stays so.
--
-- KEYS behind those of head.lua: those of the campaign
-- arg: campaign (its uid), to ('paused', 'active', 'cancelled' or 'complete'), reason (why it pauses), priority,
--      next (how many batches it has, if it is complete: if it has others, it isn't)
-- Returns 1 if that is news, 0 if it was so already, or can't be any more; -1 if there is no such campaign.
write_though_full()
local campaign = campaign_by(arg.campaign)
if campaign.state == '' then return -1 end

local function completed()
  return redis.call('HSETNX', campaign.key, 'complete', integer(now))
end

if arg.to == 'complete' then
  if arg.next ~= campaign.next then return 0 end
  return completed()
end
if campaign.state == arg.to or campaign.state == 'cancelled' then return 0 end
redis.call('HSET', campaign.key, 'state', arg.to, 'since', integer(now), 'reason', arg.reason)
redis.call('HDEL', campaign.key, 'brake')
if arg.to == 'cancelled' then completed() end
if arg.to == 'active' then
  wants_turns(campaign, arg.priority)
else
  redis.call('ZREM', TURNS[arg.priority], campaign.uid)
end
return 1
