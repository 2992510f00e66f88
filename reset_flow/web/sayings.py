"""Texts as HTML: what is filled in is escaped, and times are marked for the script."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs
from markupsafe import Markup, escape

from reset_flow.messages import Message, Texts, masked
from reset_flow.messages.texts import fill, relative, shown, time_of_day

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow

MINUTE = timedelta(minutes=1)
SOON = timedelta(minutes=2)
"""What is to come by then is told without the time of day."""

FROM_OUTSIDE = frozenset({"login", "question", "sent_to", "words"})
"""What is written by others, perhaps in another direction than the text around it."""


@attrs.frozen
class Sayings:
    """The texts of one page, in its language."""

    texts: Texts
    locale: str
    now: datetime

    def __call__(self, message: Message | str, **context: Any) -> Markup:
        """Return HTML."""
        id_, known = (message, {}) if isinstance(message, str) else (message.id, message.context)
        values = {**known, **context}
        pattern = escape(self.texts.pattern(id_, self.locale, values.get("count", 1)))
        return Markup(fill(pattern, lambda name: self._shown(name, values[name])))  # noqa: S704 - both are escaped

    def plain(self, message: Message | str, **context: Any) -> str:
        """Return plain text, for attributes and titles."""
        return self.texts.say(message, self.locale, **context)

    def pattern(self, id_: str) -> str:
        """Return a text with its places, which the script fills."""
        return self.texts.pattern(id_, self.locale)

    def started(self, flow: Flow, long_ago: str, just_now: str) -> Markup:
        """Say for whom a flow was started, and since when."""
        login = masked(flow.user)
        if self.now - flow.created_at < MINUTE:
            return self(just_now, login=login)
        age = relative(flow.created_at - self.now, self.locale)
        return self(long_ago, login=login, started=_time(flow.created_at, "ago", age))

    def _shown(self, name: str, value: Any) -> Markup:
        if isinstance(value, Markup):
            return value
        if name == "retry_after":
            end = self.now + timedelta(seconds=value)
            at = f" ({time_of_day(end, self.locale)})" if value > SOON.total_seconds() else ""
            return _time(end, "in", shown(name, value, self.locale) + at)
        if isinstance(value, datetime):
            return _time(value, "at", time_of_day(value, self.locale))
        text = shown(name, value, self.locale)
        return Markup("<bdi>{}</bdi>").format(text) if name in FROM_OUTSIDE else escape(text)


def _time(at: datetime, kind: str, text: str) -> Markup:
    return Markup('<time datetime="{}" data-{}>{}</time>').format(at.isoformat(timespec="seconds"), kind, text)
