-- One page of an index. -> time, members, scores (of what is due), records
-- KEYS: the index, what the keys of flows begin with.
-- ARGV: time, kind of index, size of a page, where to go on; for what is due, of the last one: its score, its number.

local kind, size = ARGV[2], tonumber(ARGV[3])
local members, scores, keys = {}, {}, {}

if kind == 'all' then
    members = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[4], '+', 'LIMIT', 0, size)
elseif kind == 'lookup' then
    members = redis.call('ZREVRANGEBYLEX', KEYS[1], ARGV[4], '-', 'LIMIT', 0, size)
else
    -- From the first of those with the last one's score: the last one itself may have moved on.
    local score, number = tonumber(ARGV[4]), tonumber(ARGV[5])
    local rank = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[4])
    local over = false
    while not over and #members < size do
        local found = redis.call('ZRANGE', KEYS[1], rank, rank + size - 1, 'WITHSCORES')
        over = #found == 0
        for i = 1, #found, 2 do
            local at = tonumber(found[i + 1])
            over = over or at > now
            if not over and #members < size and (at > score or place(found[i]) > number) then
                members[#members + 1] = found[i]
                scores[#scores + 1] = found[i + 1]
            end
        end
        rank = rank + size
    end
end

for i, text in ipairs(members) do
    keys[i] = KEYS[2] .. (kind == 'all' and text or select(2, place(text)))
end
return {now, members, scores, #keys > 0 and redis.call('MGET', unpack(keys)) or {}}
