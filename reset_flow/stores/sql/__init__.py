"""
What the stores that speak SQL are made of: `postgres*` is PostgreSQL's, `sqlite*` and `writer` are SQLite's, and what
their rows hold is the same.
"""
