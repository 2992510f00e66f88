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

-- What is kept of a flow begins with what scripts need to know; the rest is the driver's business.
local FORMAT = 1
local HEAD = '>BI8I8i8'
local KNOWN = HEAD .. 'I4c0I4c0I4c0'

-- The number of a flow is its place in the order of creation. It leads the members of sorted sets, where equal scores
-- stand in the order of their bytes.
local function member(number, id)
    return struct.pack('>I8', number) .. id
end

local function place(text)
    return (struct.unpack('>I8', text)), string.sub(text, 9)
end

-- nil: there is none; an empty text: there is something else.
local function fetch(key)
    local value = redis.pcall('GET', key)
    if type(value) == 'table' then
        return ''
    end
    return value or nil
end

-- What scripts need to know, or nil where it can't be read.
local function look(value)
    local fine, format, version, number, _, realm, write_id, lookups = pcall(struct.unpack, KNOWN, value)
    if fine and format == FORMAT then
        return {version = version, number = number, realm = realm, write_id = write_id, lookups = lookups}
    end
end
