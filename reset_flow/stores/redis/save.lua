-- Write the next version of each of many flows and change its uses, each as if it came alone. -> for each an outcome:
-- 0 it is stored, -1 it is stale, -2 what is stored is no record, the error that kept it from being written, or a list
-- of the budgets that are full: the key of each, and the microseconds until it is not (-1 if waiting does not help).
-- KEYS: what the keys of flows begin with, the count of flows; then what the other keys begin with: all, due and ended
-- of a realm, lookups, budgets; the channel for changes, and the version of what is stored.
-- ARGV: time, then each save as `encode_save` in records.py packs it.

local SCHEMA = 1 -- as in server.py
local SAVED, STALE, UNREADABLE = 0, -1, -2
local NEVER = -1
local NOTHING = -2 ^ 63 -- in place of a time that there is none of
local LINGER = 60000 -- milliseconds; an unexpired use must never be missed, so its key goes a little later

local flows, count, alls, dues, endeds, by_lookup, by_budget, channel, schema = unpack(KEYS)

-- The changes of uses, budget by budget. -> budgets, where the changes end
local function unpack_budgets(text, at, drops, adds)
    local budgets, by_key = {}, {}
    local function budget_of(key)
        if not by_key[key] then
            by_key[key] = {key = key, drop = {}, add = {}, adds = 0}
            budgets[#budgets + 1] = by_key[key]
        end
        return by_key[key]
    end

    local key, id, limit, window
    for _ = 1, drops do
        key, id, at = struct.unpack('>I4c0I4c0', text, at)
        budget_of(key).drop[id] = true
    end
    for _ = 1, adds do
        key, id, limit, window, at = struct.unpack('>I4c0I4c0i8i8', text, at)
        local budget = budget_of(key)
        budget.limit = limit
        budget.add[id] = now + window
        budget.adds = budget.adds + 1
    end
    return budgets, at
end

-- -> nil, or how long to wait until the budget has room. A use that is there already is not added again.
local function judge(budget)
    if budget.adds == 0 then
        return nil
    end
    local others, present = {}, 0
    local found = redis.call('ZRANGEBYSCORE', by_budget .. budget.key, '(' .. whole(now), '+inf', 'WITHSCORES')
    for i = 1, #found, 2 do
        local id, expires = found[i], tonumber(found[i + 1])
        if not budget.drop[id] then
            if budget.add[id] then
                present = present + 1
                budget.add[id] = nil
            else
                others[#others + 1] = expires
            end
        end
    end
    local excess = #others + budget.adds - budget.limit
    if budget.adds > present and excess > 0 then
        return others[excess] and others[excess] - now or NEVER
    end
end

local function change(budget)
    local key = by_budget .. budget.key
    for id in pairs(budget.drop) do
        redis.call('ZREM', key, id)
    end
    if next(budget.add) then
        redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now))
        for id, expires in pairs(budget.add) do
            redis.call('ZADD', key, whole(expires), id)
        end
        local latest = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
        redis.call('PEXPIRE', key, whole(math.ceil((latest - now) / 1000) + LINGER))
    end
end

-- Set or remove a flow's place in an index by time.
local function index(key, text, time)
    if time ~= NOTHING then
        redis.call('ZADD', key, whole(time), text)
    else
        redis.call('ZREM', key, text)
    end
end

local changed = {}

local function save(text)
    local version, id, replaces, drops, adds, at = struct.unpack('>i8I4c0I4c0i8i8', text)
    local budgets, start = unpack_budgets(text, at, drops, adds)
    local due, ended, lease, realm, write_id, lookups = struct.unpack(RECORD, text, start)

    local known = {version = 0, realm = realm, write_id = ''}
    local stored = fetch(flows .. id)
    if stored then
        known = decode(stored)
        if not known then
            return UNREADABLE
        end
        if known.write_id == write_id then
            return SAVED
        end
    end
    if version ~= known.version + 1 or replaces ~= known.write_id or realm ~= known.realm then
        return STALE
    end
    local refused = {}
    for _, budget in ipairs(budgets) do
        local wait = judge(budget)
        if wait then
            refused[#refused + 1] = {budget.key, wait}
        end
    end
    if #refused > 0 then
        return refused
    end

    -- Nothing was written until here, and nothing below is refused once the first write was not.
    local number = known.number or redis.call('INCR', count)
    if number == 1 and not known.number then
        redis.call('SET', schema, SCHEMA, 'NX')
    end
    local leased_until = lease ~= NOTHING and now + lease or 0
    local placed = member(number, id)
    if not stored then
        redis.call('ZADD', alls .. realm, 0, id)
        for _, key in ipairs(lookup_keys(by_lookup, lookups, realm)) do
            redis.call('ZADD', key, 0, placed)
        end
    end
    redis.call('SET', flows .. id, struct.pack(HEAD, FORMAT, version, number, leased_until) .. string.sub(text, start))
    index(dues .. realm, placed, lease ~= NOTHING and leased_until or due)
    index(endeds .. realm, placed, ended)
    for _, budget in ipairs(budgets) do
        change(budget)
    end
    changed[#changed + 1] = id
    return SAVED
end

local outcomes = {}
for i = 2, #ARGV do
    -- What one is refused for is no reason to refuse the others.
    local fine, outcome = pcall(save, ARGV[i])
    outcomes[i - 1] = (fine or type(outcome) == 'table') and outcome or {err = outcome}
end
tell(channel, changed)
return outcomes
