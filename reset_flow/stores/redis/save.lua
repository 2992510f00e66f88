-- Write the next version of each of many flows and count its charges, each as if it came alone. -> for each what came of
-- it: 0 it is stored, -1 it is stale, -2 it is over a limit and waiting does not help, -3 what is stored is no record,
-- more than 0 it is over a limit for so long; or the error that kept it from being written.
-- KEYS: what the keys of flows begin with, the count of flows; then what the other keys begin with: all, due and ended
-- of a realm, lookups, budgets, channels.
-- ARGV: time, then of each save a text: version, id, the record behind its head; of each charge: key, amount, limit,
-- window.

local SAVED, STALE, NEVER, UNREADABLE = 0, -1, -2, -3
local SAVE, RECORD, TIMES, CHARGE = '>i8I4c0I4c0', '>I4c0I4c0I4c0', '>i8i8i8', '>I4c0i8i8i8'
local TIMES_LENGTH, LOOKUP_LENGTH = 24, 16
local NOTHING = -2 ^ 63 -- in place of a time that there is none of
local LINGER = 60000 -- milliseconds; an expired use must never be missed, so its key goes a little later

local flows, count, alls, dues, endeds, by_lookup, by_budget, channels = unpack(KEYS)

-- The uses of a budget, the oldest first. They are about as many as its limit lets through, so all of them are read.
local function read(key)
    local uses, gone, newest = {}, {}, 0
    local found = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #found, 2 do
        local nth, number, expires = struct.unpack('>I8I8I8', found[i])
        newest = math.max(newest, nth)
        if expires <= now then
            gone[#gone + 1] = found[i]
        else
            uses[#uses + 1] = {at = tonumber(found[i + 1]), number = number, expires = expires, member = found[i]}
        end
    end
    return {uses = uses, gone = gone, newest = newest}
end

-- Take back the newest use that the flow of this number made.
local function take_back(budget, number)
    local uses = budget.uses
    for i = #uses, 1, -1 do
        if uses[i].number == number then
            if uses[i].member then
                budget.gone[#budget.gone + 1] = uses[i].member
            end
            table.remove(uses, i)
            return
        end
    end
end

-- Count one use, as if it was allowed. -> 0 if it is, else the code that says for how long it is not
local function use(budget, number, limit, window)
    local uses, counted, ours, code = budget.uses, {}, 0, 0
    for _, each in ipairs(uses) do
        if each.at + window > now then
            counted[#counted + 1] = each
        end
        if not each.member then
            ours = ours + 1
        end
    end
    if ours >= limit then
        code = NEVER
    elseif #counted >= limit then
        code = counted[#counted - limit + 1].at + window - now
    end
    uses[#uses + 1] = {at = now, number = number, expires = now + window}
    budget.counted = true
    return code
end

-- Judge the charges one after the other, as if those before had been written. -> code, budgets by key, keys
local function judge(text, at, number)
    local code, budgets, order = 0, {}, {}
    while at <= #text do
        local name, amount, limit, window
        name, amount, limit, window, at = struct.unpack(CHARGE, text, at)
        local key = by_budget .. name
        local budget = budgets[key]
        if not budget then
            budget = read(key)
            budgets[key] = budget
            order[#order + 1] = key
        end
        if amount < 0 then
            take_back(budget, number)
        else
            local refused = use(budget, number, limit, window)
            code = (code == NEVER or refused == NEVER) and NEVER or math.max(code, refused)
        end
    end
    return code, budgets, order
end

local function write_budget(key, budget, number)
    local last, nth = 0, budget.newest
    for _, gone in ipairs(budget.gone) do
        redis.call('ZREM', key, gone)
    end
    for _, each in ipairs(budget.uses) do
        if not each.member then
            nth = nth + 1
            redis.call('ZADD', key, whole(now), struct.pack('>I8I8I8', nth, number, each.expires))
        end
        last = math.max(last, each.expires)
    end
    if budget.counted then
        redis.call('PEXPIRE', key, whole(math.ceil((last - now) / 1000) + LINGER))
    end
end

local function save(text)
    local version, id, record, charges = struct.unpack(SAVE, text)
    local realm, write_id, lookups = struct.unpack(RECORD, record)
    local due, ended, lease = struct.unpack(TIMES, record, #record - TIMES_LENGTH + 1)

    local flow = flows .. id
    local stored = fetch(flow)
    local known = {version = 0, number = 0, realm = realm}
    if stored then
        known = look(stored)
        if not known then
            return UNREADABLE
        end
        if known.write_id == write_id then
            return SAVED
        end
    end
    if version ~= known.version + 1 or realm ~= known.realm then
        return STALE
    end
    local code, budgets, order = judge(text, charges, known.number)
    if code ~= 0 then
        return code
    end

    -- Nothing was written until here, and nothing below is refused once the first write was not.
    local number = known.number
    if not stored then
        number = redis.call('INCR', count)
        redis.call('ZADD', alls .. realm, 0, id)
        for at = 1, #lookups, LOOKUP_LENGTH do
            local lookup = string.sub(lookups, at, at + LOOKUP_LENGTH - 1)
            redis.call('ZADD', by_lookup .. lookup .. realm, 0, member(number, id))
        end
    end
    local leased_until = lease ~= NOTHING and now + lease or 0
    redis.call('SET', flow, struct.pack(HEAD, FORMAT, version, number, leased_until) .. record)

    local function index(key, score)
        if score ~= NOTHING then
            redis.call('ZADD', key .. realm, whole(score), member(number, id))
        elseif stored then
            redis.call('ZREM', key .. realm, member(number, id))
        end
    end
    index(dues, lease ~= NOTHING and leased_until or due)
    index(endeds, ended)
    for _, key in ipairs(order) do
        write_budget(key, budgets[key], number)
    end

    -- Who may not publish can still save: whoever waits looks from time to time.
    redis.pcall('PUBLISH', channels .. id, whole(version))
    return SAVED
end

local codes = {}
for i = 2, #ARGV do
    -- What one is refused for is no reason to refuse the others.
    local fine, code = pcall(save, ARGV[i])
    codes[i - 1] = (fine or type(code) == 'table') and code or {err = code}
end
return codes
