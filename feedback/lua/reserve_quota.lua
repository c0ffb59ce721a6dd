-- Takes a request and its tokens from what a key has for a minute, or takes nothing.
-- KEYS 1 minute, 2 quota
-- ARGV 1 reservation id, 2 its tokens, 3 requests a minute, 4 tokens a minute ("" for no limit)
-- Returns {1 when it was taken (again when the call is repeated) or 0, requests in the minute, tokens in it,
--          ms until the minute is empty, ms until the request would fit (0 when it was taken, -1 when it never will)}
-- A minute's counts are not worth a disk's time: they stay out of the append-only file, and nobody waits for a sync.
redis.replicate_commands()
redis.set_repl(redis.REPL_NONE)
local MINUTE_US = 60000000
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- In pieces: a window that was left alone may hold more than one call can be given as arguments.
repeat
  local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - MINUTE_US, 'LIMIT', 0, 1000)
  if #gone > 0 then
    local freed = 0
    for _, tokens in ipairs(redis.call('HMGET', KEYS[2], unpack(gone))) do freed = freed + tonumber(tokens or '0') end
    redis.call('HDEL', KEYS[2], unpack(gone))
    redis.call('HINCRBY', KEYS[2], 'sum', -freed)
    redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #gone - 1)
  end
until #gone < 1000

local requests = redis.call('ZCARD', KEYS[1])
if requests == 0 then redis.call('DEL', KEYS[2]) end
local tokens = tonumber(redis.call('HGET', KEYS[2], 'sum') or '0')

local function ms_until_out(rank)
  local at = redis.call('ZRANGE', KEYS[1], rank, rank, 'WITHSCORES')[2]
  return at and math.max(1, math.ceil((tonumber(at) + MINUTE_US - now) / 1000)) or 0
end

if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {1, requests, tokens, ms_until_out(-1), 0} end

local asked = tonumber(ARGV[2])
local most_requests, most_tokens = tonumber(ARGV[3]), tonumber(ARGV[4])
local over = most_requests and requests + 1 - most_requests or 0
local over_tokens = most_tokens and tokens + asked - most_tokens or 0
if over <= 0 and over_tokens <= 0 then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], asked)
  redis.call('HINCRBY', KEYS[2], 'sum', asked)
  redis.call('PEXPIRE', KEYS[1], 61000)
  redis.call('PEXPIRE', KEYS[2], 61000)
  return {1, requests + 1, tokens + asked, 60000, 0}
end

if most_tokens and asked > most_tokens then return {0, requests, tokens, ms_until_out(-1), -1} end
-- The oldest go first. Beyond a thousand the answer is the earliest time at which it could fit.
local wait = over > 0 and ms_until_out(over - 1) or 0
if over_tokens > 0 then
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 999)
  local freed, rank = 0, 0
  for i, held in ipairs(redis.call('HMGET', KEYS[2], unpack(oldest))) do
    freed, rank = freed + tonumber(held or '0'), i - 1
    if freed >= over_tokens then break end
  end
  wait = math.max(wait, ms_until_out(rank))
end
return {0, requests, tokens, ms_until_out(-1), wait}
