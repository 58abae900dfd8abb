-- Puts addresses on the suppression list.
--
-- arg: entries {{mailbox, source, since when (ms, 0: now), reason}, …}, replace (1: of one that is there, what is
--      said is replaced; 0: it stays), mark (of this call, by chance)
-- KEYS behind those of head.lua: 19 suppressed [hash], 20 suppressed:latest [list]
-- Returns how many are new there.
write_though_full()
local SUPPRESSED_LIST, LATEST = KEYS[19], KEYS[20]
local added = {}
for _, row in ipairs(arg.entries) do
  local mailbox, source, at, reason = unpack(row)
  local entry = cmsgpack.pack({ source, at == 0 and now or at, reason })
  if redis.call('HSETNX', SUPPRESSED_LIST, mailbox, entry) == 1 then
    table.insert(added, mailbox)
  elseif arg.replace == 1 then
    redis.call('HSET', SUPPRESSED_LIST, mailbox, entry)
  end
end
note_listed(LATEST, added, arg.mark)
return #added
