"""
Places to keep flows, one module for each.

Their parts, and the texts that their servers are sent, are in a folder for each language: `sql/` (SQLite, PostgreSQL)
and `lua/` (Redis).
"""
