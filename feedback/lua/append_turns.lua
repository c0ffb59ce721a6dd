-- Keeps turns and enters them in their indexes, all in one. A turn that is there already stays as it is.
-- KEYS 1..turns the turns, then the indexes
-- ARGV 1 how many turns, 2 seconds they are kept, then each turn as JSON, then of each index: the time before which it
--      forgets, how many ids follow, and as often time, id
local turns, ttl = tonumber(ARGV[1]), ARGV[2]
for i = 1, turns do redis.call('SET', KEYS[i], ARGV[2 + i], 'EX', ttl, 'NX') end
local at = 3 + turns
for i = turns + 1, #KEYS do
  local forget, ids = ARGV[at], tonumber(ARGV[at + 1])
  for j = 1, ids do redis.call('ZADD', KEYS[i], ARGV[at + 2 * j], ARGV[at + 2 * j + 1]) end
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', forget)
  redis.call('EXPIRE', KEYS[i], ttl)
  at = at + 2 + 2 * ids
end
return turns
