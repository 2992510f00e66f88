-- What PostgreSQL is asked. $1 is the time where one is given, and else NULL. The clock is read in a query of its own:
-- a function that may say something else for each row keeps a condition from using an index.

-- Arrays come as text, but that of the bodies.

-- name: save
SELECT {prefix}_save(
    $1, $2::text::bigint[], $3::text::text[], $4::text::text[], $5::text::bigint[], $6::text::text[],
    $7::text::bigint[], $8::text::bigint[], $9::text::bigint[], $10::text::bytea[], $11::text::bytea[], $12, $13::text::bigint[],
    $14::text::integer[], $15::text::bytea[], $16::text::integer[], $17::text::bigint[], $18::text::bigint[]
)

-- name: load
SELECT id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until,
    (SELECT {prefix}_now($1)) AS present
FROM {prefix}_flows WHERE id = ANY ($2::text::text[])

-- Each scan goes by an index, in pages that end after so many rows, however few of them are wanted.

-- name: scan_due
SELECT id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until,
    (SELECT {prefix}_now($1)) AS present, number, coalesce(leased_until, due_at) AS due
FROM {prefix}_flows
WHERE realm = $2 AND coalesce(leased_until, due_at) BETWEEN $3 AND (SELECT {prefix}_now($1))
    AND (coalesce(leased_until, due_at), number) > ($3, $4)
ORDER BY coalesce(leased_until, due_at), number LIMIT $5

-- name: scan_lookup
SELECT id, realm, version, state, due_at, ended_at, lease, flows.lookups, write_id, body, leased_until,
    (SELECT {prefix}_now($1)) AS present, flows.number, 0::bigint AS due
FROM {prefix}_lookups AS found JOIN {prefix}_flows AS flows ON flows.id = found.flow AND flows.number = found.number
WHERE found.lookup = $2 AND found.number < $3
ORDER BY found.number DESC LIMIT $4

-- name: scan_ids
SELECT id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until,
    (SELECT {prefix}_now($1)) AS present, number, 0::bigint AS due
FROM {prefix}_flows WHERE id > $2 ORDER BY id LIMIT $3

-- What others are busy with is left for the next time. Lookups are found one by one: for a join, the planner takes the
-- flows for thousands, and reads the whole table.

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

-- To read pg_class makes the server's process hear of tables that others have just made; to_regclass alone would believe
-- what it remembers.

-- name: find_schema
SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('{prefix}_schema')) AS found,
    current_setting('server_encoding') AS encoding,
    current_setting('server_version_num')::integer AS server

-- name: read_schema
SELECT max(version) FROM {prefix}_schema

-- To compile a purge costs half a second, as soon as the tables are large, and to carry it out a millisecond.

-- name: prepare
SELECT set_config('default_transaction_isolation', 'read committed', false),
    set_config('statement_timeout', $1, false),
    set_config('jit', 'off', false),
    CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END
