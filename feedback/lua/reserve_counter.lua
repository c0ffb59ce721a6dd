-- Gives a job its version counter, the same again however often it asks.
-- KEYS 1 job, 2 counter
-- ARGV 1 token
-- Returns the counter, or -2 when the lease was lost.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] or redis.call('HGET', KEYS[1], 'state') ~= 'running' then
  return -2
end
local had = redis.call('HGET', KEYS[1], 'counter')
if had then return tonumber(had) end
local counter = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], 'counter', tostring(counter))
return counter
