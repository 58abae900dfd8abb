-- Stands before every script: what it is given, by name. Behind it comes common.lua; of both a script gets what it
-- uses. QUEUED … SUPPRESSED, ANY_UNFINISHED, LAPSES_BEFORE_ASIDE and what ids are made of are set by
-- mailtasks/store/scripts.py, and so are NAMES and MOVES.
--
-- KEYS, the same in every script (types in brackets):
--   1 counts [hash]            states and tallies of this shard
--   2 minute [hash]            the same for one minute, for rates and response times
--   3 steering [hash]          pause:all, pause:PRIORITY, looked, limited, quiet (ms), doubt:told, doubt:at (ms),
--                              sweep:at (ms), sweep:cursor, sweep:found (ms), listed (mark of the latest addition
--                              to the suppression list)
--   4-6 due:PRIORITY [zset]    batch -> ms, for urgent, normal, bulk
--   7-9 gate:pause:PRIORITY [zset]
--   10-12 gate:aside:PRIORITY [zset]
--   13-15 gate:rate:PRIORITY [zset]
--   16-18 with:STATE [zset]    batch -> ms, for failed, expired, in_doubt
--   19… per batch: batch [hash], states [string], tries [hash]
-- and behind those what a script's own head names. Last of all, if a batch is of a campaign, from KEYS[arg.shared]:
--   turns:PRIORITY [zset], for urgent, normal, bulk; fed [zset]; campaigns:open [zset]
-- and for each campaign, from KEYS[arg.campaigns[UID]]:
--   campaign [hash], its gate [zset], its template [string], its fingerprints [string]
--
-- ARGV[1] is a MessagePack map, here `arg`; in every script it holds lease, margin, jump, retention (ms)
-- and doubt {PRIORITY = 'resend' or 'hold'}. All times are milliseconds of Redis' clock.
local arg = cmsgpack.unpack(ARGV[1])
local COUNTS, MINUTE, STEERING = KEYS[1], KEYS[2], KEYS[3]
local DUE = { urgent = KEYS[4], normal = KEYS[5], bulk = KEYS[6] }
local GATE_PAUSE = { urgent = KEYS[7], normal = KEYS[8], bulk = KEYS[9] }
local GATE_ASIDE = { urgent = KEYS[10], normal = KEYS[11], bulk = KEYS[12] }
local GATE_RATE = { urgent = KEYS[13], normal = KEYS[14], bulk = KEYS[15] }
local WITH = { [FAILED] = KEYS[16], [EXPIRED] = KEYS[17], [IN_DOUBT] = KEYS[18] }
local FIRST_BATCH_KEY = 19
local BY_HAND = 'byhand' -- in place of a claim's mark, which is hexadecimal

-- Waiting for a campaign's turn, for the end of a pause or for its rate ends some time, if nothing else does.
local LONGEST_AT_GATE = 400 * 24 * 3600 * 1000
local TURNS = arg.shared and { urgent = KEYS[arg.shared], normal = KEYS[arg.shared + 1], bulk = KEYS[arg.shared + 2] }
local FED, OPEN = arg.shared and KEYS[arg.shared + 3], arg.shared and KEYS[arg.shared + 4]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
