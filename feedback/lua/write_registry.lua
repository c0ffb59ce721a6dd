-- Writes policies, the list of lives and an audit entry, if the registry is still at the epoch that was read.
-- KEYS 1 policies, 2 registry, 3 audit, 4 job row (any key when no token guards the write), 5 this write's receipt
-- ARGV 1 epoch read, 2 fencing token ("" when none), 3 lives (JSON), 4 audit entry (JSON, "" for none),
--      5 receipt ttl_s, 6 how many versions are taken out, then those, then version and policy (JSON) in turn
-- Returns the new epoch (the same again when the write is repeated), -1 when the registry has moved on, -2 when the
-- job's lease was lost.
local receipt = redis.call('GET', KEYS[5])
if receipt then return tonumber(receipt) end
if ARGV[2] ~= '' then
  if redis.call('HGET', KEYS[4], 'token') ~= ARGV[2] or redis.call('HGET', KEYS[4], 'state') ~= 'running' then
    return -2
  end
end
if (redis.call('HGET', KEYS[2], 'epoch') or '0') ~= ARGV[1] then return -1 end
local first = 7 + tonumber(ARGV[6])
for i = 7, first - 1 do redis.call('HDEL', KEYS[1], ARGV[i]) end
for i = first, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[2], 'lives', ARGV[3])
if ARGV[4] ~= '' then redis.call('XADD', KEYS[3], '*', 'entry', ARGV[4]) end
local epoch = redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('SET', KEYS[5], tostring(epoch), 'EX', ARGV[5])
return epoch
