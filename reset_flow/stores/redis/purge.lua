-- Delete a piece of what ended long ago. Expired uses go by themselves. -> one outcome: deleted, passed over, looked at
-- KEYS: of the realm: all, due, ended; what the keys of flows and lookups begin with; the channel for changes.
-- ARGV: time, realm, before, size of a piece, how many to pass over.

local all, due, ended, flows, by_lookup, channel = unpack(KEYS)
local realm, before, size, skip = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local deleted, passed = {}, 0

local found = redis.call('ZRANGEBYSCORE', ended, '-inf', '(' .. before, 'LIMIT', skip, size)
for _, text in ipairs(found) do
    local id = id_of(text)
    local value = fetch(flows .. id)
    local flow = value and decode(value)
    if value and not (flow and flow.realm == realm) then
        -- Nobody can tell where else it stands; it is left as it is.
        passed = passed + 1
    else
        redis.call('ZREM', ended, text)
        redis.call('ZREM', all, id)
        redis.call('ZREM', due, text)
        if flow then
            redis.call('DEL', flows .. id)
            for _, key in ipairs(lookup_keys(by_lookup, flow.lookups, realm)) do
                redis.call('ZREM', key, text)
            end
            deleted[#deleted + 1] = id
        end
    end
end
tell(channel, deleted)
return {{#deleted, passed, #found}}
