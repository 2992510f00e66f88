-- Schema 1. {prefix} is the embedder's. Times are microseconds since 1970 (UTC), lengths of time are microseconds.

CREATE TABLE {prefix}_schema (version integer NOT NULL);
INSERT INTO {prefix}_schema VALUES (1);

-- Ids are compared byte by byte, whatever the database's collation: so is the order in which a realm is gone through.
-- The greatest number is the newest flow.
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

-- What is sealed can't be compressed: do not try.
ALTER TABLE {prefix}_flows ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX {prefix}_flows_due ON {prefix}_flows (realm, coalesce(leased_until, due_at))
    WHERE coalesce(leased_until, due_at) IS NOT NULL;

CREATE INDEX {prefix}_flows_ended ON {prefix}_flows (realm, ended_at) WHERE ended_at IS NOT NULL;

-- Only for searching: the row of the flow has them as well.
CREATE TABLE {prefix}_lookups (
    lookup bytea NOT NULL,
    number bigint NOT NULL,
    flow text COLLATE "C" NOT NULL,
    PRIMARY KEY (lookup, number)
);

-- A row for each use of a budget; its number tells those of one microsecond from each other. The flow is a number, since
-- that is never given again: a purged flow and a later one of its name are two.
CREATE TABLE {prefix}_uses (
    key bytea NOT NULL,
    at bigint NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    flow bigint NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (key, at, number)
);

CREATE INDEX {prefix}_uses_expired ON {prefix}_uses (expires_at);

-- The clock that leases and budgets are judged by: the server's, or in tests the one that is given.
CREATE FUNCTION {prefix}_now(given bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(given, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
$$;

-- Save many records, each as if it came alone, and say what came of each: 0 it is stored, -1 it is stale, -2 it is over
-- a limit and waiting does not help, more than 0 it is over a limit for so long. Nothing that can be foreseen raises
-- an error, since that would undo the others.
--
-- Deadlocks can't be: whoever saves takes the locks of its budgets first, in the order of their numbers, and then the
-- rows of its flows, in the order of their ids; both come in that order. Needs READ COMMITTED: what was waited for is
-- seen by the next statement.
--
-- The charges of a record are those behind the charges of the one before it, up to its charge_end.
CREATE FUNCTION {prefix}_save(
    given_now bigint, locks bigint[],
    ids text[], realms text[], versions bigint[], states text[], due_ats bigint[], ended_ats bigint[], leases bigint[],
    lookups bytea[], write_ids bytea[], bodies bytea[], names bigint[], charge_ends integer[],
    keys bytea[], amounts integer[], limits bigint[], windows bigint[]
) RETURNS bigint[] LANGUAGE plpgsql VOLATILE
-- All that is asked for is found by an index: to plan again for other values costs more than to find it.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    codes bigint[] := '{}';
    saved bigint[] := '{}';
    code bigint;
    present bigint;
    incoming record;
    stored record;
    flow_number bigint;
    place bigint;
    charge integer := 1;
    counted integer[] := '{}';
    fresh_charges integer[];
    fresh_keys bytea[];
    fresh_ends bigint[];
    taken bigint[];
    taken_keys bytea[];
    taken_ats bigint[];
    mine bigint;
    used_at bigint;
    used_number bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(each.place) FROM unnest(locks) AS each (place);
    present := {prefix}_now(given_now);

    FOR incoming IN
        SELECT * FROM unnest(
            ids, realms, versions, states, due_ats, ended_ats, leases, lookups, write_ids, bodies, names, charge_ends
        ) AS each (
            id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, name, charge_end
        )
    LOOP
        code := 0;
        fresh_keys := '{}';
        taken := '{}';

        IF charge <= incoming.charge_end THEN
            -- A repeated save is a success even when its budget is used up by now: look before the charges are judged.
            SELECT flow.version, flow.write_id, flow.number INTO stored FROM {prefix}_flows AS flow
                WHERE flow.id = incoming.id FOR UPDATE;
            IF stored.write_id = incoming.write_id OR coalesce(stored.version, 0) + 1 <> incoming.version THEN
                codes := codes || CASE WHEN stored.write_id = incoming.write_id THEN 0 ELSE -1 END::bigint;
                charge := incoming.charge_end + 1;
                CONTINUE;
            END IF;

            -- One after the other, as if those before had been written. Nothing is.
            flow_number := stored.number;
            fresh_ends := '{}';
            fresh_charges := '{}';
            taken_keys := '{}';
            taken_ats := '{}';
            FOR charge IN charge .. incoming.charge_end LOOP
                IF amounts[charge] < 0 THEN
                    place := NULL;
                    FOR mine IN REVERSE cardinality(fresh_keys) .. 1 LOOP
                        IF fresh_keys[mine] = keys[charge] THEN
                            place := mine;
                            EXIT;
                        END IF;
                    END LOOP;
                    IF place IS NOT NULL THEN
                        fresh_keys[place] := NULL;
                        CONTINUE;
                    END IF;
                    SELECT uses.at, uses.number INTO used_at, used_number FROM {prefix}_uses AS uses
                        WHERE uses.key = keys[charge] AND uses.flow = flow_number AND uses.expires_at > present
                            AND uses.number <> ALL (taken)
                        ORDER BY uses.at DESC, uses.number DESC LIMIT 1;
                    IF FOUND THEN
                        taken := taken || used_number;
                        taken_keys := taken_keys || keys[charge];
                        taken_ats := taken_ats || used_at;
                    END IF;
                    CONTINUE;
                END IF;

                mine := cardinality(array_positions(fresh_keys, keys[charge]));
                IF limits[charge] <= mine THEN
                    code := -2;
                ELSE
                    SELECT uses.at INTO used_at FROM {prefix}_uses AS uses
                        WHERE uses.key = keys[charge] AND uses.at > present - windows[charge]
                            AND uses.expires_at > present AND uses.number <> ALL (taken)
                        ORDER BY uses.at DESC, uses.number DESC LIMIT 1 OFFSET limits[charge] - mine - 1;
                    IF FOUND AND code <> -2 THEN
                        code := greatest(code, used_at + windows[charge] - present);
                    END IF;
                END IF;
                fresh_keys := fresh_keys || keys[charge];
                fresh_ends := fresh_ends || present + windows[charge];
                fresh_charges := fresh_charges || charge;
            END LOOP;
            charge := incoming.charge_end + 1;

            IF code <> 0 THEN
                codes := codes || code;
                CONTINUE;
            END IF;
            counted := counted || fresh_charges;
        END IF;

        IF incoming.version = 1 THEN
            INSERT INTO {prefix}_flows AS flow
                (id, realm, version, state, due_at, ended_at, lease, leased_until, lookups, write_id, body)
                VALUES (incoming.id, incoming.realm, 1, incoming.state, incoming.due_at, incoming.ended_at,
                    incoming.lease, present + incoming.lease, incoming.lookups, incoming.write_id, incoming.body)
                ON CONFLICT (id) DO NOTHING
                RETURNING flow.number INTO flow_number;
        ELSE
            UPDATE {prefix}_flows AS flow
                SET realm = incoming.realm, version = incoming.version, state = incoming.state,
                    due_at = incoming.due_at, ended_at = incoming.ended_at,
                    lease = incoming.lease, leased_until = present + incoming.lease,
                    lookups = incoming.lookups, write_id = incoming.write_id, body = incoming.body
                WHERE flow.id = incoming.id AND flow.version = incoming.version - 1 AND flow.write_id <> incoming.write_id;
        END IF;
        IF NOT FOUND THEN
            PERFORM FROM {prefix}_flows AS flow WHERE flow.id = incoming.id AND flow.write_id = incoming.write_id;
            codes := codes || CASE WHEN FOUND THEN 0 ELSE -1 END::bigint;
            CONTINUE;
        END IF;

        IF incoming.version = 1 AND incoming.lookups <> '' THEN
            INSERT INTO {prefix}_lookups (lookup, number, flow)
                SELECT substring(incoming.lookups FROM start FOR 16), flow_number, incoming.id
                FROM generate_series(1, length(incoming.lookups), 16) AS start
                ON CONFLICT DO NOTHING;
        END IF;
        FOR place IN 1 .. cardinality(fresh_keys) LOOP
            IF fresh_keys[place] IS NOT NULL THEN
                INSERT INTO {prefix}_uses (key, at, flow, expires_at)
                    VALUES (fresh_keys[place], present, flow_number, fresh_ends[place]);
            END IF;
        END LOOP;
        FOR place IN 1 .. cardinality(taken) LOOP
            DELETE FROM {prefix}_uses AS uses
                WHERE uses.key = taken_keys[place] AND uses.at = taken_ats[place] AND uses.number = taken[place];
        END LOOP;
        codes := codes || code;
        saved := saved || incoming.name;
    END LOOP;

    -- What has expired is looked for once, and key by key: for a join, the planner may read the whole table.
    IF counted <> '{}' THEN
        DELETE FROM {prefix}_uses WHERE ctid = ANY (ARRAY(
            SELECT gone.ctid FROM unnest(counted) AS made (charge), LATERAL (
                SELECT uses.ctid FROM {prefix}_uses AS uses
                WHERE uses.key = keys[made.charge] AND uses.at <= present - windows[made.charge]
                    AND uses.expires_at <= present
                LIMIT 1000
            ) AS gone
        ));
    END IF;

    -- One notification, because whoever sends one commits alone; its length is bounded by the size of a batch.
    IF saved <> '{}' THEN
        PERFORM pg_notify('{prefix}_changed', array_to_string(saved, ' '));
    END IF;
    RETURN codes;
END
$$;
