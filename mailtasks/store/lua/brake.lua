-- Counts refusals of one kind, in a row, for which no recipient is to blame.
--
-- KEYS behind those of head.lua: those of the campaign
-- arg: campaign (its uid), case (the kind; '': none), run (how many at the end of a window), is_broken (1: something
--      was sent before them in that window, so that they are the first in their row)
-- Returns how many there are in a row now.
write_though_full()
local campaign = campaign_by(arg.campaign)
if campaign.state == '' then return 0 end
local so_far, case = string.match(campaign.brake, '^(%d+) (.*)$')
local run = arg.run
if arg.is_broken == 0 and case == arg.case then run = run + tonumber(so_far) end
if run == 0 then
  redis.call('HDEL', campaign.key, 'brake')
else
  redis.call('HSET', campaign.key, 'brake', integer(run) .. ' ' .. arg.case)
end
return run
