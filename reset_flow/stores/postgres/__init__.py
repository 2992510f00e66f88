"""Flows in PostgreSQL."""

from reset_flow.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
