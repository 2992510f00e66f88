-- Times are microseconds since 1970 (UTC), lengths of time are microseconds.
-- Semicolons end statements and stand nowhere else, as the script is run statement by statement.

-- Rows grow while a flow runs. Numbered in the order of their creation, the growing rows lie side by side at the end of
-- the table, where a batch of saves touches few pages. A key of random ids would spread them over all of it.
CREATE TABLE flows (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    realm TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    due_at INTEGER,
    ended_at INTEGER,
    lease INTEGER,
    leased_until INTEGER,
    lookups BLOB NOT NULL,
    write_id BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE INDEX flows_due ON flows (realm, coalesce(leased_until, due_at))
    WHERE coalesce(leased_until, due_at) IS NOT NULL;

CREATE INDEX flows_ended ON flows (realm, ended_at) WHERE ended_at IS NOT NULL;

-- For searches only: the row of the flow has its lookups as well. The greatest number is the newest flow.
CREATE TABLE lookups (
    lookup BLOB NOT NULL,
    flow INTEGER NOT NULL,
    PRIMARY KEY (lookup, flow)
) STRICT, WITHOUT ROWID;

CREATE TABLE uses (
    key BLOB NOT NULL,
    id BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (key, id)
) STRICT, WITHOUT ROWID;
