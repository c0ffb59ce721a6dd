-- Appends one event, its idempotency row and its view at once, or nothing.
-- KEYS 1 log, 2 ordinal, 3 event, 4 idempotency ("" when none), 5 slots, 6 standing, 7 standing pairs, 8 tally,
--      9 retracted event (the event's own key when it retracts nothing), 10… turn and about key of each turn named
-- ARGV 1 event id, 2 body, 3 slot, 4 makes a pair (0|1), 5 retracted event id, 6 body digest, 7 idempotency ttl_s,
--      8 at, 9 said by a human (0|1), 10 append to the log (0 when the view is rebuilt from it), 11 ordinal then
local appending = ARGV[10] == '1'
if appending then
  -- First of all: this very call, sent again because its reply was lost, is not a second use of the idempotency key.
  local again = redis.call('HGET', KEYS[3], 'ordinal')
  if again then return {'created', again} end
  if KEYS[4] ~= '' then
    local known = redis.call('GET', KEYS[4])
    if known then return {'known', known} end
  end
  for i = 10, #KEYS, 2 do
    if redis.call('EXISTS', KEYS[i]) == 0 then return {'unknown_turn', KEYS[i]} end
  end
end

local ordinal = ARGV[11]
if appending then
  ordinal = tostring(redis.call('INCR', KEYS[2]))
  redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'ordinal', ordinal, 'body', ARGV[2], 'slot', ARGV[3])
  if KEYS[4] ~= '' then redis.call('SET', KEYS[4], ARGV[1] .. ' ' .. ARGV[6], 'EX', ARGV[7]) end
end
redis.call('HSET', KEYS[3], 'ordinal', ordinal, 'body', ARGV[2], 'slot', ARGV[3])

if ARGV[5] ~= '' then
  local slot = redis.call('HGET', KEYS[9], 'slot')
  if slot and redis.call('HGET', KEYS[5], slot) == ARGV[5] then
    redis.call('HDEL', KEYS[5], slot)
    redis.call('ZREM', KEYS[6], ARGV[5])
    redis.call('ZREM', KEYS[7], ARGV[5])
  end
else
  local former = redis.call('HGET', KEYS[5], ARGV[3])
  if former then
    redis.call('ZREM', KEYS[6], former)
    redis.call('ZREM', KEYS[7], former)
  end
  redis.call('HSET', KEYS[5], ARGV[3], ARGV[1])
  redis.call('ZADD', KEYS[6], ordinal, ARGV[1])
  if ARGV[4] == '1' then redis.call('ZADD', KEYS[7], ordinal, ARGV[1]) end
end
redis.call('HSET', KEYS[8], 'last_vote_at', ARGV[8])
if ARGV[9] == '1' then redis.call('HINCRBY', KEYS[8], 'people', 1) end
for i = 10, #KEYS, 2 do
  redis.call('PERSIST', KEYS[i])
  redis.call('ZADD', KEYS[i + 1], ordinal, ARGV[1])
end
return {'created', ordinal}
