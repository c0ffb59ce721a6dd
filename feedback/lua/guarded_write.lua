-- Writes fields of a job row (and a curve point) while the fencing token is still the row's own.
-- KEYS 1 job, 2 curve
-- ARGV 1 token, 2 curve point (JSON, "" for none), 3 lease_s ("" to leave the lease), 4 attempts to give back,
--      5 how this write ends the claim ("" when it does not), 6… field and value in turn
-- Returns 1 (again when the write that ended the claim is repeated), or 0 when the lease was lost.
local ending = ARGV[5] ~= '' and ARGV[1] .. ' ' .. ARGV[5]
if ending and redis.call('HGET', KEYS[1], 'ended') == ending then return 1 end
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] or redis.call('HGET', KEYS[1], 'state') ~= 'running' then
  return 0
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'lease_until', string.format('%.6f', now + tonumber(ARGV[3])),
             'heartbeat_at', string.format('%.3f', now))
end
if ARGV[2] ~= '' then redis.call('RPUSH', KEYS[2], ARGV[2]) end
if ARGV[4] ~= '0' then redis.call('HINCRBY', KEYS[1], 'attempt', -tonumber(ARGV[4])) end
if ending then redis.call('HSET', KEYS[1], 'ended', ending) end
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
