"""What a save is worth."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Durability(StrEnum):
    """
    What the server does for a save before it acknowledges it.

    With `ALWAYS`, Redis flushes its log before it sends the replies to what it logged, and ends itself where it can't
    (`flushAppendOnlyFile` in its aof.c).
    """

    ALWAYS = "always"
    EVERYSEC = "everysec"
    SYSTEM = "no"
    NONE = "none"
    UNKNOWN = "unknown"

    @property
    def sentence(self) -> str:
        """Say it to people."""
        return {
            Durability.ALWAYS: "a save that returned has reached the server's disk",
            Durability.EVERYSEC: "what was saved in the last second or two is lost if the server's machine fails",
            Durability.SYSTEM: "what was saved in the last half minute or so is lost if the server's machine fails",
            Durability.NONE: "what was saved since the last snapshot, if any, is lost when the server stops",
            Durability.UNKNOWN: "the server does not tell whether it writes what was saved to its disk",
        }[self]

    @classmethod
    def reported(cls, config: Mapping[str, str], info: Mapping[str, Any]) -> Durability:
        """Return what CONFIG GET and INFO report, as far as the server lets us ask."""
        if config.get("appendonly", "yes" if info.get("aof_enabled", 1) else "no") == "no":
            return cls.NONE
        if config.get("no-appendfsync-on-rewrite") == "yes":
            return cls.SYSTEM
        fsync = config.get("appendfsync")
        return cls(fsync) if fsync in ("always", "everysec", "no") else cls.UNKNOWN
