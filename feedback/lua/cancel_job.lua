-- Has a job end: at once where nobody ever worked on it, else by the worker that holds it or takes it next.
-- KEYS 1 job
-- ARGV 1 who wants it and why, 2 nonce of this call
-- Returns the state that it was in, 'cancelled' where it has ended by this call (the same when the call is repeated),
-- '' where there is no job.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
if redis.call('HGET', KEYS[1], 'cancel_nonce') == ARGV[2] then return 'cancelled' end
if state ~= 'queued' and state ~= 'running' then return state end
redis.call('HSETNX', KEYS[1], 'cancelled', ARGV[1])
if state == 'running' or redis.call('HEXISTS', KEYS[1], 'started_at') == 1 then return state end
local clock = redis.call('TIME')
redis.call('HSET', KEYS[1], 'state', 'failed', 'stage', 'cancelled', 'error', ARGV[1], 'cancel_nonce', ARGV[2],
           'finished_at', string.format('%.3f', tonumber(clock[1]) + tonumber(clock[2]) / 1e6))
return 'cancelled'
