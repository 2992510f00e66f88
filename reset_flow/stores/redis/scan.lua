-- One page of an index. -> one outcome: time, where to go on (nothing on the last page), id and record of each flow
-- KEYS: the index, what the keys of flows begin with.
-- ARGV: time, kind of index, size of a page, where to go on.

local index, flows = KEYS[1], KEYS[2]
local kind, size = ARGV[2], tonumber(ARGV[3])
local found, cursor, ids = {}, {}, {}

if kind == 'due' then
    -- The last flow of the page before may have moved on. So go on from its score, behind its number.
    local score, number = ARGV[4], tonumber(ARGV[5])
    local passed = redis.call('ZCOUNT', index, '-inf', '(' .. score)
    for _, text in ipairs(redis.call('ZRANGEBYSCORE', index, score, score)) do
        if number_of(text) <= number then
            passed = passed + 1
        end
    end
    found = redis.call('ZRANGEBYSCORE', index, '-inf', whole(now), 'LIMIT', passed, size)
elseif kind == 'lookup' then
    found = redis.call('ZREVRANGEBYLEX', index, ARGV[4], '-', 'LIMIT', 0, size)
else
    found = redis.call('ZRANGEBYLEX', index, ARGV[4], '+', 'LIMIT', 0, size)
end

local last = found[size]
if last and kind == 'due' then
    cursor = {redis.call('ZSCORE', index, last), whole(number_of(last))}
elseif last then
    cursor = {'(' .. last}
end

local page = {}
for _, text in ipairs(found) do
    local id = kind == 'all' and text or id_of(text)
    local value = fetch(flows .. id)
    if value then
        page[#page + 1] = {id, value}
    end
end
return {{now, cursor, page}}
