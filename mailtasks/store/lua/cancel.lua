-- Cancels recipients that are not being sent and not final.
--
-- arg: id, indices
-- Returns how many of them are cancelled now, by this call or before, or -1 if there is no such batch.
write_though_full()
local batch = load(arg.id, FIRST_BATCH_KEY)
if not batch then return -1 end
local cancelled = 0
for _, index in ipairs(arg.indices) do
  local state = state_of(batch, index)
  if state == QUEUED or state == DEFERRED then move(batch, index, CANCELLED) end
  if state_of(batch, index) == CANCELLED then cancelled = cancelled + 1 end
end
if batch.dirty then save(batch, batch.token and batch.lease) end
return cancelled
