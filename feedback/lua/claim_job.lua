-- Gives a waiting job (queued, or running under a lease that ran out) to one worker.
-- KEYS 1 job, 2 fence
-- ARGV 1 worker, 2 lease_s, 3 nonce of this claim
-- Returns {token, attempt}, the same again when the claim is repeated, or nothing when the job is not to be had.
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'running' and redis.call('HGET', KEYS[1], 'claim_nonce') == ARGV[3] then
  return redis.call('HMGET', KEYS[1], 'token', 'attempt')
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local lease_until = tonumber(redis.call('HGET', KEYS[1], 'lease_until') or '0')
if not (state == 'queued' or (state == 'running' and lease_until <= now)) then return {} end
local token = tostring(redis.call('INCR', KEYS[2]))
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'state', 'running', 'token', token, 'worker', ARGV[1], 'claim_nonce', ARGV[3],
           'lease_until', string.format('%.6f', now + tonumber(ARGV[2])), 'heartbeat_at', string.format('%.3f', now))
if redis.call('HEXISTS', KEYS[1], 'started_at') == 0 then
  redis.call('HSET', KEYS[1], 'started_at', string.format('%.3f', now))
end
return {token, tostring(attempt)}
