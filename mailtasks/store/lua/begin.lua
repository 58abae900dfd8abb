-- Begins a campaign, or takes it up: only the first call with a name and a run writes anything.
--
-- KEYS behind those of head.lua: 19 campaigns [hash]; then those of the campaign
-- arg: campaign (its uid), called (its name), run, and record {field, value, …}; ARGV[2] its template
-- Returns {field, value, …}: its record, whoever has begun it.
local NAMES_OF_CAMPAIGNS, campaign = KEYS[FIRST_BATCH_KEY], campaign_by(arg.campaign)
if campaign.state == '' then
  redis.call('HSET', campaign.key, 'name', arg.called, 'run', arg.run, 'state', 'active', 'begun', integer(now),
    unpack(arg.record))
  redis.call('SET', campaign.template_key, ARGV[2])
  redis.call('ZADD', OPEN, integer(now), campaign.uid)
end
local latest = tonumber(redis.call('HGET', NAMES_OF_CAMPAIGNS, arg.called) or 0)
if latest < arg.run then redis.call('HSET', NAMES_OF_CAMPAIGNS, arg.called, arg.run) end
return redis.call('HGETALL', campaign.key)
