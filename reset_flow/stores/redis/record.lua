-- In front of every other script. ARGV[1] is the time in microseconds since 1970, or empty for the server's own.
-- Doubles count microseconds exactly until the year 2255; as text they need '%.0f', or their last digits are lost.

local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end

local function whole(number)
    return string.format('%.0f', number)
end

-- A flow is stored as a head that `save.lua` writes, and the record as records.py packs it. The head: format, version,
-- number, end of the lease or 0. Scripts read a record up to its lookups: due, ended, lease, realm, write id, lookups.
local FORMAT, HEAD, RECORD = 1, '>BI8I8i8', '>i8i8i8I4c0I4c0I4c0'
local STORED = HEAD .. string.sub(RECORD, 2)
local LOOKUP_LENGTH = 16

-- -> nil where there is no such key, an empty text where it holds something else
local function fetch(key)
    local value = redis.pcall('GET', key)
    if type(value) == 'table' then
        return ''
    end
    return value or nil
end

-- -> what scripts need to know of a stored flow, or nil where it can't be read
local function decode(value)
    local fine, format, version, number, _, _, _, _, realm, write_id, lookups = pcall(struct.unpack, STORED, value)
    if fine and format == FORMAT then
        return {version = version, number = number, realm = realm, write_id = write_id, lookups = lookups}
    end
end

-- The number of a flow is its place in the order of creation. It leads the members of the indexes, because members of
-- equal score stand in the order of their bytes.
local NUMBER_LENGTH = 8

local function member(number, id)
    return struct.pack('>I8', number) .. id
end

local function number_of(text)
    return (struct.unpack('>I8', text))
end

local function id_of(text)
    return string.sub(text, NUMBER_LENGTH + 1)
end

-- The keys of a realm's indexes by lookup that a flow is in.
local function lookup_keys(prefix, lookups, realm)
    local keys = {}
    for at = 1, #lookups, LOOKUP_LENGTH do
        keys[#keys + 1] = prefix .. string.sub(lookups, at, at + LOOKUP_LENGTH - 1) .. realm
    end
    return keys
end

-- One message for a batch. A user who may not publish can still save: tasks that wait look from time to time.
local function tell(channel, ids)
    if #ids > 0 then
        redis.pcall('PUBLISH', channel, table.concat(ids, ' '))
    end
end
