-- Delete a piece of what ended long ago. Expired uses go by themselves. -> deleted, passed over, looked at
-- KEYS: of the realm: all, due, ended; what the keys of flows, of the realm's lookups and the channels begin with.
-- ARGV: time, realm, before, size of a piece, how many to pass over, how long a lookup is.

local all, due, ended, flows, lookups, channels = unpack(KEYS)
local length = tonumber(ARGV[6])
local deleted, passed = 0, 0

local found = redis.call('ZRANGEBYSCORE', ended, '-inf', '(' .. ARGV[3], 'LIMIT', ARGV[5], ARGV[4])
for _, text in ipairs(found) do
    local _, id = place(text)
    local value = fetch(flows .. id)
    local known = value and look(value)
    if value and (not known or known.realm ~= ARGV[2]) then
        -- Nobody can tell where else it stands; it is left as it is.
        passed = passed + 1
    else
        redis.call('ZREM', ended, text)
        redis.call('ZREM', all, id)
        redis.call('ZREM', due, text)
        if known then
            redis.call('DEL', flows .. id)
            for at = 1, #known.lookups, length do
                redis.call('ZREM', lookups .. string.sub(known.lookups, at, at + length - 1) .. ARGV[2], text)
            end
            redis.pcall('PUBLISH', channels .. id, '')
            deleted = deleted + 1
        end
    end
end
return {deleted, passed, #found}
