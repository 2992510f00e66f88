-- Write the next version of a flow and count its charges, or write nothing. -> what came of it, how long to wait
-- KEYS: the flow, the count of flows, the mark of the last purge, then of the realm: all, due, ended; then each lookup's
-- and each charge's.
-- ARGV: time, id, realm, version, stamp, lease, due, ended, the record behind its head, the channel, how many lookups;
-- then of each charge: amount, limit, window.

local FIRST_LOOKUP, FIRST_CHARGE = 7, 12
local LINGER = 60000 -- milliseconds; an expired use must never be missed, so its key goes a little later

local flow, count, mark, all, due, ended = unpack(KEYS, 1, 6)
local id, realm, version, stamp = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local lookups = tonumber(ARGV[11])

local stored = fetch(flow)
local known = {version = 0, number = 0, realm = realm}
if stored then
    known = look(stored)
    if not known then
        return {'unreadable'}
    end
    if known.stamp == stamp then
        return {'saved'}
    end
end
if version ~= known.version + 1 or realm ~= known.realm then
    return {'stale'}
end

-- The uses of a budget, the oldest first. They are about as many as its limit lets through, so all of them are read.
local forgotten = 0
local function read(key)
    local uses, gone, newest = {}, {}, 0
    local found = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #found, 2 do
        local nth, number, expires = struct.unpack('>I8I8I8', found[i])
        newest = math.max(newest, nth)
        -- A purge forgets all that has expired, in whatever key, by moving a mark.
        if expires <= forgotten then
            gone[#gone + 1] = found[i]
        else
            uses[#uses + 1] = {at = tonumber(found[i + 1]), number = number, expires = expires, member = found[i]}
        end
    end
    return {uses = uses, gone = gone, newest = newest}
end

-- Judge the charges one after the other, as if those before had been written.
local budgets, order = {}, {}
local blocked, hopeless, wait = false, false, 0
if #ARGV >= FIRST_CHARGE then
    forgotten = tonumber(redis.call('GET', mark) or 0)
end
for nth = 0, (#ARGV - FIRST_CHARGE + 1) / 3 - 1 do
    local key = KEYS[FIRST_LOOKUP + lookups + nth]
    local amount, limit, window = unpack(ARGV, FIRST_CHARGE + 3 * nth, FIRST_CHARGE + 3 * nth + 2)
    limit, window = tonumber(limit), tonumber(window)
    local budget = budgets[key]
    if not budget then
        budget = read(key)
        budgets[key] = budget
        order[#order + 1] = key
    end
    local uses = budget.uses
    if tonumber(amount) < 0 then
        for i = #uses, 1, -1 do
            if uses[i].number == known.number then
                if uses[i].member then
                    budget.gone[#budget.gone + 1] = uses[i].member
                end
                table.remove(uses, i)
                break
            end
        end
    else
        local counted, ours = {}, 0
        for _, use in ipairs(uses) do
            if use.at + window > now then
                counted[#counted + 1] = use
            end
            if not use.member then
                ours = ours + 1
            end
        end
        if ours >= limit then
            blocked, hopeless = true, true
        elseif #counted >= limit then
            blocked, wait = true, math.max(wait, counted[#counted - limit + 1].at + window - now)
        end
        uses[#uses + 1] = {at = now, number = known.number, expires = now + window}
        budget.start = math.max(budget.start or 0, now - window)
    end
end
if blocked then
    return {'limit', hopeless and -1 or wait}
end

-- Nothing was written until here, and nothing below is refused once the first write was not.
local number = known.number
if not stored then
    number = redis.call('INCR', count)
    redis.call('ZADD', all, 0, id)
    for i = FIRST_LOOKUP, FIRST_LOOKUP + lookups - 1 do
        redis.call('ZADD', KEYS[i], 0, member(number, id))
    end
end
local leased_until = ARGV[6] ~= '' and now + tonumber(ARGV[6]) or 0
redis.call('SET', flow, struct.pack(HEAD, FORMAT, version, number, leased_until) .. ARGV[9])

local function index(key, score)
    if score ~= '' then
        redis.call('ZADD', key, score, member(number, id))
    elseif stored then
        redis.call('ZREM', key, member(number, id))
    end
end
index(due, ARGV[6] ~= '' and whole(leased_until) or ARGV[7])
index(ended, ARGV[8])

for _, key in ipairs(order) do
    local budget = budgets[key]
    local last, nth = 0, budget.newest
    for _, gone in ipairs(budget.gone) do
        redis.call('ZREM', key, gone)
    end
    for _, use in ipairs(budget.uses) do
        if not use.member then
            nth = nth + 1
            redis.call('ZADD', key, whole(now), struct.pack('>I8I8I8', nth, number, use.expires))
        elseif budget.start and use.at <= budget.start and use.expires <= now then
            redis.call('ZREM', key, use.member)
        end
        last = math.max(last, use.expires)
    end
    if budget.start then
        redis.call('PEXPIRE', key, whole(math.ceil((last - now) / 1000) + LINGER))
    end
end

-- Who may not publish can still save: whoever waits looks from time to time.
redis.pcall('PUBLISH', ARGV[10], ARGV[4])
return {'saved'}
