-- Schema 1. Times are microseconds since 1970 (UTC), lengths of time are microseconds.

CREATE TABLE {prefix}_schema (version integer NOT NULL);
INSERT INTO {prefix}_schema VALUES (1);

-- Ids are compared byte by byte, whatever the collation of the database: scans go by their order. The newest flow has
-- the greatest number.
CREATE TABLE {prefix}_flows (
    id text COLLATE "C" PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY,
    realm text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    due_at bigint,
    ended_at bigint,
    lease bigint,
    leased_until bigint,
    lookups bytea NOT NULL,
    write_id bytea NOT NULL,
    body bytea NOT NULL
);

-- Sealed bytes can't be compressed: do not try.
ALTER TABLE {prefix}_flows ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX {prefix}_flows_due ON {prefix}_flows (realm, coalesce(leased_until, due_at))
    WHERE coalesce(leased_until, due_at) IS NOT NULL;

CREATE INDEX {prefix}_flows_ended ON {prefix}_flows (realm, ended_at) WHERE ended_at IS NOT NULL;

-- An index of the lookups that the rows of the flows hold.
CREATE TABLE {prefix}_lookups (
    lookup bytea NOT NULL,
    number bigint NOT NULL,
    flow text COLLATE "C" NOT NULL,
    PRIMARY KEY (lookup, number)
);

-- One row for each counted use of a budget.
CREATE TABLE {prefix}_uses (
    key bytea NOT NULL,
    id bytea NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (key, id)
);

CREATE INDEX {prefix}_uses_expired ON {prefix}_uses (expires_at);

-- What a save changes in the uses of one key. `room` is how many other uses the limit leaves room for.
CREATE TYPE {prefix}_change AS (
    key bytea,
    dropped bytea[],
    added bytea[],
    windows bigint[],
    room integer
);

-- The clock that judges leases and uses: the server's, or in tests the given one.
CREATE FUNCTION {prefix}_now(given bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(given, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
$$;

-- Save a batch of records with their bodies, each as if it came alone. Return a row for each record that was not saved,
-- with its place in the batch (from 1): without `refused` it is stale; else these keys were refused, and each would
-- admit the same save after its wait (NULL: never). A record is judged before it is written, because an error would
-- undo the whole batch.
--
-- Deadlocks are impossible: each call locks first the keys of all uses (`locks` is sorted), then the rows of the flows
-- in the order of their ids; a purge skips locked rows. READ COMMITTED is required: a statement after a lock sees what
-- the transaction wrote that held the lock before.
CREATE FUNCTION {prefix}_save(given_now bigint, locks bigint[], batch json, bodies bytea[])
RETURNS TABLE (place bigint, refused bytea[], waits bigint[]) LANGUAGE plpgsql VOLATILE
-- Every statement finds its rows by an index: planning it again costs more than running it.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    present bigint;
    incoming record;
    stored record;
    change {prefix}_change;
    counted bigint;
    ends bigint[];
    flow_number bigint;
    saved text := '';
BEGIN
    PERFORM pg_advisory_xact_lock(each.lock) FROM unnest(locks) AS each (lock);
    present := {prefix}_now(given_now);

    FOR incoming IN
        SELECT *
        FROM ROWS FROM (json_to_recordset(batch) AS (
            id text, realm text, version bigint, state text, due_at bigint, ended_at bigint, lease bigint,
            lookups bytea, write_id bytea, replaces bytea, name bigint, changes {prefix}_change[]
        ), unnest(bodies)) WITH ORDINALITY AS each (
            id, realm, version, state, due_at, ended_at, lease, lookups, write_id, replaces, name, changes, body, place
        )
        ORDER BY each.id COLLATE "C", each.place
    LOOP
        place := incoming.place;
        refused := NULL;
        waits := NULL;

        IF incoming.changes IS NOT NULL THEN
            -- A repeated save succeeds even if its budgets are full by now.
            SELECT flow.version, flow.write_id INTO stored FROM {prefix}_flows AS flow
                WHERE flow.id = incoming.id FOR UPDATE;
            CONTINUE WHEN stored.write_id = incoming.write_id;
            IF coalesce(stored.version, 0) + 1 <> incoming.version
                OR coalesce(stored.write_id, '') <> incoming.replaces THEN
                RETURN NEXT;
                CONTINUE;
            END IF;

            FOREACH change IN ARRAY incoming.changes LOOP
                SELECT count(*) FILTER (WHERE uses.id = ANY (change.added)),
                    array_agg(uses.expires_at ORDER BY uses.expires_at DESC)
                        FILTER (WHERE uses.id <> ALL (change.added))
                INTO counted, ends
                FROM {prefix}_uses AS uses
                WHERE uses.key = change.key AND uses.id <> ALL (change.dropped)
                    AND uses.expires_at + 0 > present; -- "+ 0": not by the index on the times of all keys
                IF counted < cardinality(change.added) AND coalesce(cardinality(ends), 0) > change.room THEN
                    refused := refused || change.key;
                    -- All but the `room` latest uses must expire first; NULL if the room is negative.
                    waits := waits || (ends[change.room + 1] - present);
                END IF;
            END LOOP;
            IF refused IS NOT NULL THEN
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;

        IF incoming.version = 1 THEN
            INSERT INTO {prefix}_flows AS flow
                (id, realm, version, state, due_at, ended_at, lease, leased_until, lookups, write_id, body)
                SELECT incoming.id, incoming.realm, 1, incoming.state, incoming.due_at, incoming.ended_at,
                    incoming.lease, present + incoming.lease, incoming.lookups, incoming.write_id, incoming.body
                WHERE incoming.replaces = ''
                ON CONFLICT (id) DO NOTHING
                RETURNING flow.number INTO flow_number;
        ELSE
            UPDATE {prefix}_flows AS flow
                SET realm = incoming.realm, version = incoming.version, state = incoming.state,
                    due_at = incoming.due_at, ended_at = incoming.ended_at,
                    lease = incoming.lease, leased_until = present + incoming.lease,
                    lookups = incoming.lookups, write_id = incoming.write_id, body = incoming.body
                WHERE flow.id = incoming.id AND flow.version = incoming.version - 1
                    AND flow.write_id = incoming.replaces AND flow.write_id <> incoming.write_id;
        END IF;
        IF NOT FOUND THEN
            -- FOR UPDATE writes something: so this commit, too, waits for a standby that the first one may have missed.
            PERFORM FROM {prefix}_flows AS flow
                WHERE flow.id = incoming.id AND flow.write_id = incoming.write_id FOR UPDATE;
            IF NOT FOUND THEN
                RETURN NEXT;
            END IF;
            CONTINUE;
        END IF;
        saved := saved || ' ' || incoming.name;

        IF incoming.version = 1 AND incoming.lookups <> '' THEN
            INSERT INTO {prefix}_lookups (lookup, number, flow)
                SELECT substring(incoming.lookups FROM start FOR 16), flow_number, incoming.id
                FROM generate_series(1, length(incoming.lookups), 16) AS start
                ON CONFLICT DO NOTHING;
        END IF;

        FOREACH change IN ARRAY coalesce(incoming.changes, '{}') LOOP
            DELETE FROM {prefix}_uses AS uses WHERE uses.key = change.key AND uses.id = ANY (change.dropped);
            INSERT INTO {prefix}_uses AS uses (key, id, expires_at)
                SELECT change.key, each.id, present + each."window"
                FROM unnest(change.added, change.windows) AS each (id, "window")
                ON CONFLICT (key, id) DO UPDATE SET expires_at = excluded.expires_at WHERE uses.expires_at <= present;
        END LOOP;
    END LOOP;

    -- One notification for the batch: cheaper for the server and its listeners than one for each flow.
    IF saved <> '' THEN
        PERFORM pg_notify('{prefix}_changed', saved);
    END IF;
END
$$;
