-- Appends one event, its idempotency row and its view at once, or nothing.
-- KEYS 1 log, 2 ordinal, 3 event, 4 idempotency ("" when none), 5 slots, 6 standing, 7 lessons, 8 lesson rows,
--      9 scores, 10 tally, 11 retracted event (the event's own key when it retracts nothing), 12… turn and about key of
--      each turn named
-- ARGV 1 event id, 2 body, 3 slot, 4 lesson ("" when it teaches nothing by itself), 5 retracted event id, 6 body digest,
--      7 idempotency ttl_s, 8 at, 9 said by a human (0|1), 10 append to the log (0 when the view is rebuilt from it),
--      11 ordinal then, 12 group of a score ("" when it is none), 13 score
local appending = ARGV[10] == '1'
if appending then
  -- First of all: this very call, sent again because its reply was lost, is not a second use of the idempotency key.
  local again = redis.call('HGET', KEYS[3], 'ordinal')
  if again then return {'created', again} end
  if KEYS[4] ~= '' then
    local known = redis.call('GET', KEYS[4])
    if known then return {'known', known} end
  end
  for i = 12, #KEYS, 2 do
    if redis.call('EXISTS', KEYS[i]) == 0 then return {'unknown_turn', KEYS[i]} end
  end
end

local function teach(lesson, id, at)
  local row = string.format('%s:%012d:%s', lesson, at, id)
  redis.call('ZADD', KEYS[7], 0, row)
  redis.call('HSET', KEYS[8], id, row)
end

local function unteach(id)
  local row = redis.call('HGET', KEYS[8], id)
  if not row then return end
  redis.call('ZREM', KEYS[7], row)
  redis.call('HDEL', KEYS[8], id)
end

-- In a group of scores, oldest first, those teach that differ from an earlier one: the two make a pair.
local function regroup(group, gone, come)
  local kept = {}
  for _, score in ipairs(cjson.decode(redis.call('HGET', KEYS[9], group) or '[]')) do
    if score[1] ~= gone then kept[#kept + 1] = score end
  end
  kept[#kept + 1] = come
  local lesson, mixed = group:match('^[^:]+'), false
  for _, score in ipairs(kept) do
    local differs = score[3] ~= kept[1][3]
    unteach(score[1])
    if differs or mixed then teach(lesson, score[1], score[2]) end
    mixed = mixed or differs
  end
  if #kept == 0 then redis.call('HDEL', KEYS[9], group) else redis.call('HSET', KEYS[9], group, cjson.encode(kept)) end
end

local ordinal = ARGV[11]
if appending then
  ordinal = tostring(redis.call('INCR', KEYS[2]))
  redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'ordinal', ordinal, 'body', ARGV[2], 'slot', ARGV[3])
  if KEYS[4] ~= '' then redis.call('SET', KEYS[4], ARGV[1] .. ' ' .. ARGV[6], 'EX', ARGV[7]) end
end
redis.call('HSET', KEYS[3], 'ordinal', ordinal, 'body', ARGV[2], 'slot', ARGV[3])
if ARGV[12] ~= '' then redis.call('HSET', KEYS[3], 'group', ARGV[12]) end

if ARGV[5] ~= '' then
  local slot = redis.call('HGET', KEYS[11], 'slot')
  if slot and redis.call('HGET', KEYS[5], slot) == ARGV[5] then
    redis.call('HDEL', KEYS[5], slot)
    redis.call('ZREM', KEYS[6], ARGV[5])
    unteach(ARGV[5])
    local group = redis.call('HGET', KEYS[11], 'group')
    if group then regroup(group, ARGV[5], nil) end
  end
else
  local former = redis.call('HGET', KEYS[5], ARGV[3])
  if former then
    redis.call('ZREM', KEYS[6], former)
    unteach(former)
  end
  redis.call('HSET', KEYS[5], ARGV[3], ARGV[1])
  redis.call('ZADD', KEYS[6], ordinal, ARGV[1])
  if ARGV[4] ~= '' then teach(ARGV[4], ARGV[1], ordinal) end
  if ARGV[12] ~= '' then regroup(ARGV[12], former, {ARGV[1], tonumber(ordinal), tonumber(ARGV[13])}) end
end
redis.call('HSET', KEYS[10], 'last_vote_at', ARGV[8])
if ARGV[9] == '1' then redis.call('HINCRBY', KEYS[10], 'people', 1) end
for i = 12, #KEYS, 2 do
  redis.call('PERSIST', KEYS[i])
  redis.call('ZADD', KEYS[i + 1], ordinal, ARGV[1])
end
return {'created', ordinal}
