-- Puts what a request really used in the place of what was reserved for it; nothing once that has left the minute.
-- KEYS 1 minute, 2 quota
-- ARGV 1 reservation id, 2 tokens used (-1 to give the request back too)
-- Returns 1 where the reservation was found, else 0. A repeated call changes nothing.
-- A minute's counts are not worth a disk's time: they stay out of the append-only file, and nobody waits for a sync.
redis.replicate_commands()
redis.set_repl(redis.REPL_NONE)
local held = redis.call('HGET', KEYS[2], ARGV[1])
if not held then return 0 end
local used = tonumber(ARGV[2])
redis.call('HINCRBY', KEYS[2], 'sum', math.max(used, 0) - tonumber(held))
if used < 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], used)
end
return 1
