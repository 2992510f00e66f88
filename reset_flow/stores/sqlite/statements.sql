-- The statements of the store, by name.

-- name: update_next
UPDATE flows SET
    realm = :realm, version = :version, state = :state, due_at = :due_at, ended_at = :ended_at, lease = :lease,
    lookups = :lookups, write_id = :write_id, body = :body, leased_until = :leased_until
WHERE id = :id AND version = :version - 1 AND write_id = :replaces AND write_id <> :write_id

-- name: insert
INSERT INTO flows ({columns}) VALUES (
    :id, :realm, :version, :state, :due_at, :ended_at, :lease, :lookups, :write_id, :body, :leased_until
)

-- name: insert_lookup
INSERT INTO lookups (lookup, flow) VALUES (?, ?) ON CONFLICT DO NOTHING

-- name: stored
SELECT version, write_id FROM flows WHERE id = :id

-- Uses of budgets

-- name: uses
SELECT id, expires_at FROM uses WHERE key = ?

-- name: delete_expired
DELETE FROM uses WHERE key = ? AND expires_at <= ?

-- name: delete_use
DELETE FROM uses WHERE key = ? AND id = ?

-- name: insert_use
INSERT INTO uses (key, id, expires_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING

-- Reads. Each scan goes by an index, a page of rows at a time.

-- name: load
SELECT {columns} FROM flows WHERE id = :id

-- name: scan_due
SELECT {columns}, number, coalesce(leased_until, due_at)
FROM flows
WHERE realm = :realm AND coalesce(leased_until, due_at) BETWEEN :due AND :now
    AND (coalesce(leased_until, due_at), number) > (:due, :number)
ORDER BY coalesce(leased_until, due_at), number LIMIT :size

-- name: scan_lookup
SELECT {columns}, number, 0 FROM lookups JOIN flows ON number = flow
WHERE lookup = :lookup AND flow < :number ORDER BY flow DESC LIMIT :size

-- name: scan_ids
SELECT {columns}, number, 0 FROM flows WHERE id > CAST(:id AS TEXT) ORDER BY id LIMIT :size

-- Purging

-- name: ended
SELECT number, lookups FROM flows WHERE realm = :realm AND ended_at < :before ORDER BY ended_at, number LIMIT :size

-- name: delete
DELETE FROM flows WHERE number = ?

-- name: delete_lookup
DELETE FROM lookups WHERE lookup = ? AND flow = ?

-- Expired uses are found by a walk over all uses, in pieces: an index on their ends would weigh as much as the uses do.

-- name: end_of_piece
SELECT key FROM uses WHERE key > :after ORDER BY key LIMIT 1 OFFSET :size

-- name: delete_expired_of_piece
DELETE FROM uses WHERE key > :after AND key <= :last AND expires_at <= :now
