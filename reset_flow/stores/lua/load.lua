-- What is kept of many flows. -> for each: time, record
-- KEYS: what the keys of flows begin with. ARGV: time, then ids.

local found = {}
for i = 2, #ARGV do
    found[i - 1] = {now, fetch(KEYS[1] .. ARGV[i]) or false}
end
return found
