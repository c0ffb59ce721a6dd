-- Makes a job row with its snapshot, or finds the one that stands; a failed one waits again, as if it were new.
-- KEYS 1 job, 2 snapshot, 3 jobs, 4 snapshot ordinal
-- ARGV 1 job id, 2 now, 3 snapshot (JSON), 4 pairs ordinal, 5 nonce of this call, 6… field and value in turn
-- Returns 1 when this call made it (the same again when the call is repeated), 0 when it stood already, -1 when it
-- stands and is being cancelled.
if redis.call('HGET', KEYS[1], 'create_nonce') == ARGV[5] then return 1 end
local state = redis.call('HGET', KEYS[1], 'state')
if state and state ~= 'failed' and state ~= 'done' and redis.call('HEXISTS', KEYS[1], 'cancelled') == 1 then return -1 end
if state and state ~= 'failed' then return 0 end
-- What the failed attempts left must not end the new ones: under its old counter the job would find its rejected
-- version again and be done without having been judged.
redis.call('HDEL', KEYS[1], 'counter', 'started_at', 'finished_at', 'report', 'version', 'cancelled', 'cancel_nonce')
redis.call('DEL', KEYS[1] .. ':curve')
redis.call('HSET', KEYS[1], 'state', 'queued', 'attempt', '0', 'error', '', 'lease_until', '0', 'token', '',
           'create_nonce', ARGV[5])
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('SET', KEYS[4], ARGV[4])
return 1
