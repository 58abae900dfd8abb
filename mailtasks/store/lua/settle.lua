-- A person's word on doubt: recipients that are in doubt become sent or failed.
--
-- arg: id, indices, to (the state), said (what was decided; it goes before the words that are there)
-- Returns the number settled by this call, or -1 if there is no such batch.
write_though_full()
local batch = load(arg.id, FIRST_BATCH_KEY)
if not batch then return -1 end
local settled = 0
load_tries(batch, arg.indices)
for _, index in ipairs(arg.indices) do
  if state_of(batch, index) == IN_DOUBT then
    move(batch, index, arg.to)
    local tries = new_tries(batch, index)
    tries.reply = tries.reply == '' and arg.said or arg.said .. '; ' .. tries.reply
    tries.claim = BY_HAND -- the answer may still come late: it is no second mail then
    settled = settled + 1
  end
end
tally(batch.counts, 'settled', settled)
if settled == 0 then return 0 end
-- When what is unfinished must be looked at is no matter of doubt.
if string.find(batch.states, ANY_UNFINISHED) then write(batch) else save(batch) end
return settled
