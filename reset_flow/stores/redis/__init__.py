"""Flows in Redis."""

from reset_flow.stores.redis.server import Durability
from reset_flow.stores.redis.store import RedisStore

__all__ = ["Durability", "RedisStore"]
