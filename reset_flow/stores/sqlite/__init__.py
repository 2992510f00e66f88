"""Flows in one file of SQLite."""

from reset_flow.stores.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
