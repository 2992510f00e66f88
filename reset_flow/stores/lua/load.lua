-- What is kept of one flow. -> time, record
-- KEYS: the flow. ARGV: time.

return {now, fetch(KEYS[1]) or false}
