-- Takes the states of a campaign's finished batches into its record, in order, each once: their retention begins
-- with that. When all are, it is finished.
--
-- arg: campaign (its uid), ids (of batches in KEYS, from the first that isn't counted on)
-- Returns {batches that are counted, 1 if the campaign is finished}.
write_though_full()
local campaign = campaign_by(arg.campaign)
if campaign.state == '' then
  redis.call('ZREM', OPEN, campaign.uid)
  return { 0, 1 }
end
local totals = {}

local function count(batch)
  for code, name in pairs(NAMES) do
    local _, times = string.gsub(batch.states, '[' .. code .. ']', '')
    tally(totals, 'count:' .. name, times)
  end
  campaign.counted = campaign.counted + 1
  for code in pairs(WITH) do
    if has(batch, code) then list_under(batch, code) end
  end
  keep_for_retention(batch)
end

-- Its rows are over, all are counted, and of those none was queued again.
local function is_over()
  local held = redis.call('HMGET', campaign.key, 'complete', 'count:queued', 'count:sending', 'count:deferred')
  local unfinished = tonumber(held[2] or 0) + tonumber(held[3] or 0) + tonumber(held[4] or 0)
  return held[1] and campaign.counted == campaign.next and unfinished == 0
end

for i, id in ipairs(arg.ids) do
  if number_of(id) == campaign.counted then
    local is_readable, batch = pcall(load, id, FIRST_BATCH_KEY + (i - 1) * 3)
    if not is_readable then break end -- it is set aside, and a person mends it
    if not batch then -- a hand has deleted it: nothing is known of it any more
      campaign.counted = campaign.counted + 1
    elseif string.find(batch.states, ANY_UNFINISHED) then
      break
    else
      count(batch)
    end
  end
end
add_up(campaign.key, totals)
redis.call('HSET', campaign.key, 'counted', integer(campaign.counted))
if not is_over() then return { campaign.counted, 0 } end
redis.call('HSETNX', campaign.key, 'finished', integer(now))
redis.call('ZREM', OPEN, campaign.uid)
redis.call('PEXPIRE', campaign.template_key, integer(arg.retention))
redis.call('DEL', campaign.prints_key)
return { campaign.counted, 1 }
