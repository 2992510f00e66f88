"""Codes, tokens and sessions: texts that authorize their holder, once or for a while."""

from collections import defaultdict
from datetime import datetime

import attrs

RESET_PASSWORD = "ResetPassword"  # noqa: S105 - an identifier of the API, no secret
RESET_PIN = "ResetPinCode"


@attrs.define(kw_only=True)
class Grant:
    """The authorization that belongs to one text."""

    login: str
    expires_at: datetime
    purpose: str | None = None
    spent: bool = False


class Grants:
    """
    Texts of one kind, with their authorizations.

    The newest ``limit`` are kept, spent ones included, so that the user of a repeated call is still known.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._by_text: dict[str, Grant] = {}
        self._unspent_of: defaultdict[str, list[Grant]] = defaultdict(list)

    def add(self, text: str, grant: Grant, *, revokes_older: bool = False) -> None:
        """Authorize the holder of the text. An earlier grant of the same text becomes invalid."""
        earlier = self._by_text.pop(text, None)
        if earlier is not None:
            earlier.spent = True
        older = self._unspent_of[grant.login]
        for other in older:
            other.spent = other.spent or revokes_older
        self._unspent_of[grant.login] = [*(other for other in older if not other.spent), grant]
        self._by_text[text] = grant
        if len(self._by_text) > self._limit:
            oldest = self._by_text.pop(next(iter(self._by_text)))
            oldest.spent = True

    def live(self, text: str, at: datetime) -> Grant | None:
        """Return the grant of the text, if it is valid at that time."""
        grant = self._by_text.get(text)
        return None if grant is None or grant.spent or at >= grant.expires_at else grant

    def owner(self, text: str) -> str | None:
        """Return the login to which the text was last given, whether or not it is still valid."""
        grant = self._by_text.get(text)
        return None if grant is None else grant.login
