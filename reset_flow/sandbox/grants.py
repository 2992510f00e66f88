"""Codes, tokens and sessions: texts that let their holder do something, once or for a while."""

from collections import defaultdict
from datetime import datetime

import attrs

RESET_PASSWORD = "ResetPassword"  # noqa: S105 - an identifier of the API, no secret
RESET_PIN = "ResetPinCode"


@attrs.define(kw_only=True)
class Grant:
    """What one text lets its holder do, and until when."""

    login: str
    expires_at: datetime
    purpose: str | None = None
    spent: bool = False


class Grants:
    """
    Texts of one kind and whom they belong to.

    The newest ``limit`` are kept, spent ones among them, so that a repeated call can still be told whose it is.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._by_text: dict[str, Grant] = {}
        self._unspent_of: defaultdict[str, list[Grant]] = defaultdict(list)

    def add(self, text: str, grant: Grant, *, kills_older: bool = False) -> None:
        """Let the holder of the text do something; the same text given earlier to anybody is forgotten."""
        earlier = self._by_text.pop(text, None)
        if earlier is not None:
            earlier.spent = True
        older = self._unspent_of[grant.login]
        for other in older:
            other.spent = other.spent or kills_older
        self._unspent_of[grant.login] = [*(other for other in older if not other.spent), grant]
        self._by_text[text] = grant
        if len(self._by_text) > self._limit:
            oldest = self._by_text.pop(next(iter(self._by_text)))
            oldest.spent = True

    def live(self, text: str, at: datetime) -> Grant | None:
        """What the text is good for at that time, if anything."""
        grant = self._by_text.get(text)
        return None if grant is None or grant.spent or at >= grant.expires_at else grant

    def owner(self, text: str) -> str | None:
        """The login that the text was last given to, whether or not it is still good."""
        grant = self._by_text.get(text)
        return None if grant is None else grant.login
