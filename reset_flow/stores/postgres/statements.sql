-- The statements of the store, by name. Where the clock is read, $1 is the given time or NULL. A subquery reads it
-- once: a condition that calls a volatile function for each row can't use an index.

-- name: save
SELECT place, refused, waits FROM {prefix}_save($1, $2, $3, $4)

-- name: load
SELECT {columns}, (SELECT {prefix}_now($1)) AS present
FROM {prefix}_flows WHERE id = ANY ($2)

-- Each scan goes by an index, a page of rows at a time. The store skips rows of a page that do not match the query.

-- name: scan_due
SELECT {columns}, (SELECT {prefix}_now($1)) AS present, number, coalesce(leased_until, due_at) AS due
FROM {prefix}_flows
WHERE realm = $2 AND coalesce(leased_until, due_at) BETWEEN $3 AND (SELECT {prefix}_now($1))
    AND (coalesce(leased_until, due_at), number) > ($3, $4)
ORDER BY coalesce(leased_until, due_at), number LIMIT $5

-- name: scan_lookup
SELECT {columns}, (SELECT {prefix}_now($1)) AS present, flows.number, 0::bigint AS due
FROM {prefix}_lookups AS found JOIN {prefix}_flows AS flows ON flows.id = found.flow AND flows.number = found.number
WHERE found.lookup = $2 AND found.number < $3
ORDER BY found.number DESC LIMIT $4

-- name: scan_ids
SELECT {columns}, (SELECT {prefix}_now($1)) AS present, number, 0::bigint AS due
FROM {prefix}_flows WHERE id > $2 ORDER BY id LIMIT $3

-- A purge skips locked rows: the next one will delete them. Lookups are found one by one: for a join, the planner
-- estimates thousands of flows and reads the whole table.

-- name: purge_flows
WITH doomed AS (
    SELECT id, number, lookups FROM {prefix}_flows WHERE realm = $1 AND ended_at < $2
    ORDER BY ended_at, number LIMIT $3 FOR UPDATE SKIP LOCKED
), forgotten AS (
    DELETE FROM {prefix}_lookups WHERE ctid = ANY (ARRAY(
        SELECT place.ctid FROM doomed, generate_series(1, length(doomed.lookups), 16) AS start,
        LATERAL (
            SELECT ctid FROM {prefix}_lookups AS each
            WHERE each.lookup = substring(doomed.lookups FROM start FOR 16) AND each.number = doomed.number LIMIT 1
        ) AS place
    ))
)
DELETE FROM {prefix}_flows AS gone USING doomed WHERE gone.id = doomed.id RETURNING gone.id

-- name: purge_uses
DELETE FROM {prefix}_uses WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {prefix}_uses WHERE expires_at <= (SELECT {prefix}_now($1))
    ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
)) RETURNING 1

-- Reading pg_class makes the server's process notice tables that others have just created; to_regclass alone would
-- answer from its cache.

-- name: lock_schema
SELECT pg_advisory_xact_lock(hashtextextended('{prefix}_schema', 0))

-- name: find_schema
SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('{prefix}_schema')) AS found,
    current_setting('server_encoding') AS encoding,
    current_setting('server_version_num')::integer AS server

-- name: read_schema
SELECT max(version) FROM {prefix}_schema

-- Every statement finds its rows by an index. A plan that was made while the tables were empty would read them as a
-- whole for as long as the connection lasts. JIT: compiling a purge takes half a second, running it a millisecond.
-- A commit that waits for the one before it (they tell of themselves in turn) is beyond the time-out of statements, but
-- not of locks: else each repetition of a save would leave a process behind while the standby is away.
-- Warnings: one of them says that a commit was not confirmed. $2 is the process that the connection was opened to: if
-- another one answers, a pooler is in between, and the settings are for this transaction alone.

-- name: setup
SELECT pg_backend_pid() = $2::integer, pg_is_in_recovery(),
    set_config('default_transaction_isolation', 'read committed', pg_backend_pid() <> $2),
    set_config('statement_timeout', $1, pg_backend_pid() <> $2),
    set_config('lock_timeout', $1, pg_backend_pid() <> $2),
    set_config('enable_seqscan', 'off', pg_backend_pid() <> $2),
    CASE WHEN pg_backend_pid() = $2 THEN set_config('jit', 'off', false)
        ELSE set_config('jit_above_cost', '-1', true) END, -- the driver puts jit back, for the session of all
    set_config('client_min_messages', 'warning', pg_backend_pid() <> $2),
    CASE WHEN current_setting('synchronous_commit') = 'off'
        THEN set_config('synchronous_commit', 'on', pg_backend_pid() <> $2) END
