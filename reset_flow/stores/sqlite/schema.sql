-- Times are microseconds since 1970 (UTC), lengths of time are microseconds.
-- No statement is commented from inside: the file is cut into statements by line.

-- Rows grow while a flow runs. Numbered in the order of their creation, the growing ones lie side by side at the end of
-- the table, where a batch of saves touches few pages; a key of random ids would spread them over all of it.
-- A number is never used again: uses of a budget may outlive the flow that made them.
CREATE TABLE flows (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
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

-- Only for searching: the row of the flow has them as well. The greatest number is the newest flow.
CREATE TABLE lookups (
    lookup BLOB NOT NULL,
    flow INTEGER NOT NULL,
    PRIMARY KEY (lookup, flow)
) STRICT, WITHOUT ROWID;

-- A row for each use of a budget; nth tells those of one microsecond from each other.
CREATE TABLE uses (
    key BLOB NOT NULL,
    at INTEGER NOT NULL,
    nth INTEGER NOT NULL,
    flow INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (key, at, nth)
) STRICT, WITHOUT ROWID;
