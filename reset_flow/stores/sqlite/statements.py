"""The SQL of the store. Nothing in these texts comes from outside."""

from __future__ import annotations

STORED = "SELECT number, version, write_id FROM flows WHERE id = :id"

INSERT = """
    INSERT INTO flows (
        id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until
    ) VALUES (
        :id, :realm, :version, :state, :due_at, :ended_at, :lease, :lookups, :write_id, :body, :leased_until
    )"""

UPDATE = """
    UPDATE flows SET
        realm = :realm, version = :version, state = :state, due_at = :due_at, ended_at = :ended_at, lease = :lease,
        lookups = :lookups, write_id = :write_id, body = :body, leased_until = :leased_until
    WHERE number = :number"""

INSERT_LOOKUP = "INSERT INTO lookups (lookup, flow) VALUES (?, ?) ON CONFLICT DO NOTHING"

# Uses of budgets

USES = "SELECT id, expires_at FROM uses WHERE key = ?"
DELETE_EXPIRED = "DELETE FROM uses WHERE key = ? AND expires_at <= ?"
DELETE_USE = "DELETE FROM uses WHERE key = ? AND id = ?"
INSERT_USE = "INSERT INTO uses (key, id, expires_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"

# Reads

LOAD = """
    SELECT id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until
    FROM flows WHERE id = ?"""

VERSION = "SELECT version FROM flows WHERE id = ?"

# Each scan goes by an index, in pages that end after :size rows. The last two columns say where the next page begins.

SCAN_DUE = """
    SELECT id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until,
        number, coalesce(leased_until, due_at)
    FROM flows
    WHERE realm = :realm AND coalesce(leased_until, due_at) BETWEEN :due AND :now
        AND (coalesce(leased_until, due_at), number) > (:due, :number)
    ORDER BY coalesce(leased_until, due_at), number LIMIT :size"""

SCAN_LOOKUP = """
    SELECT id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until,
        number, coalesce(leased_until, due_at)
    FROM lookups JOIN flows ON number = flow
    WHERE lookup = :lookup AND flow < :number
    ORDER BY flow DESC LIMIT :size"""

SCAN_IDS = """
    SELECT id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until,
        number, coalesce(leased_until, due_at)
    FROM flows WHERE id > CAST(:id AS TEXT) ORDER BY id LIMIT :size"""

# Purging

ENDED = """
    SELECT number, lookups FROM flows WHERE realm = :realm AND ended_at < :before
    ORDER BY ended_at, number LIMIT :size"""
DELETE = "DELETE FROM flows WHERE number = ?"
DELETE_LOOKUP = "DELETE FROM lookups WHERE lookup = ? AND flow = ?"

# Expired uses are found by a walk over all uses, in pieces: an index on their ends would weigh as much as the uses do.
END_OF_PIECE = "SELECT key FROM uses WHERE key > :after ORDER BY key LIMIT 1 OFFSET :size"
DELETE_EXPIRED_OF_PIECE = "DELETE FROM uses WHERE key > :after AND key <= :last AND expires_at <= :now"
