"""Calls of the headless API of django-allauth, as an app makes them. `allauth_protocol` judges the replies."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from yarl import URL

from reset_flow.domain import validation
from reset_flow.domain.capabilities import Capabilities, CodeFormat, CodeKind
from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.outcomes import Accepted, Rejected
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import canonical, plain
from reset_flow.transports.allauth_protocol import (
    NO_SESSION,
    judge,
    read_exchange,
    read_log_in,
    read_probe,
    read_request,
    read_update,
)
from reset_flow.transports.http import Sender, endpoint
from reset_flow.transports.replies import UNSENDABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from ssl import SSLContext

    from aiohttp import ClientSession

    from reset_flow.domain.flow import NewCredential
    from reset_flow.domain.outcomes import Outcome
    from reset_flow.ports import Case
    from reset_flow.transports.allauth_protocol import Answer

CODE_LIFETIME = timedelta(minutes=3)
"""Default of ACCOUNT_PASSWORD_RESET_BY_CODE_TIMEOUT."""

LINK_LIFETIME = timedelta(days=3)
"""Default of PASSWORD_RESET_TIMEOUT."""

OUTER_SPACE = "it must not begin or end with a space"
EIGHT_LETTERS = CodeFormat.letters(8)


class AllauthTransport:
    """
    Talk to one site. May be made outside an event loop and before a fork, and used by one loop after another: each
    opens connections of its own at its first call.

    Args:
        base_url: The address of the headless API, such as `https://host/_allauth`. It must be https, except on the
            loopback interface.

        code: What the site e-mails: by default its codes of eight letters, else `CodeFormat.digits(6)`, or
            `CodeFormat.token()` where it sends links: the code is the key in the link.

        code_lifetime: How long the site takes it. Default: allauth's own, 3 minutes for codes and 3 days for links.

        answers_alike: Whether the site answers the same for addresses that it does not know: it does, unless its
            `ACCOUNT_PREVENT_ENUMERATION` is off.

        deadline: For a whole call, reply included.

        connect_deadline: For the connection, as a part of that.

        session: A session to use instead of one of its own; see `Sender` for its owner's duties.

        trust_env: Whether a session of its own reads proxies and .netrc from the environment.

        proxy: The address of the proxy to the site, for a session of its own: `http://[user:password@]host:port`.

        ssl: A context that verifies certificates. Default: as the system does.

        name: Sealed into flows, so keep it when the site moves. Default: `allauth:` and the URL.

        aliases: Names that the same site had before: flows that are bound to them are taken, too.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    def __init__(
        self,
        base_url: str | Secret,
        *,
        code: CodeFormat = EIGHT_LETTERS,
        code_lifetime: timedelta | None = None,
        answers_alike: bool = False,
        deadline: timedelta = timedelta(seconds=10),
        connect_deadline: timedelta = timedelta(seconds=5),
        session: ClientSession | None = None,
        trust_env: bool = False,
        proxy: str | Secret | None = None,
        ssl: SSLContext | None = None,
        name: str | None = None,
        aliases: Iterable[str] = (),
    ) -> None:
        base_url, proxy = Secret(base_url), validation.hidden(proxy)
        base = endpoint(base_url)
        if not isinstance(code, CodeFormat):
            raise ConfigurationError("code must be a CodeFormat")
        self._by_link = code.kind is CodeKind.TOKEN
        self._sender = Sender(
            deadline=deadline,
            connect_deadline=connect_deadline,
            session=session,
            trust_env=trust_env,
            proxy=proxy,
            ssl=ssl,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            content_type="application/json",
        )
        self.name = f"allauth:{base}" if name is None else validation.broker(name, "name")
        self.aliases = validation.brokers(aliases)
        self.deadline = deadline
        self.capabilities = Capabilities(
            code=code,
            code_lifetime=(LINK_LIFETIME if self._by_link else CODE_LIFETIME)
            if code_lifetime is None
            else code_lifetime,
            answers_alike=answers_alike,
        )
        self._request_url = URL(f"{base}/app/v1/auth/password/request", encoded=True)
        self._reset_url = URL(f"{base}/app/v1/auth/password/reset", encoded=True)
        self._log_in_url = URL(f"{base}/app/v1/auth/login", encoded=True)
        self._config_url = URL(f"{base}/app/v1/config", encoded=True)

    def __repr__(self) -> str:
        # Tracebacks with variables also show an instance whose constructor failed half-way.
        return f"AllauthTransport(name={getattr(self, 'name', None)!r})"

    def canonical_user(self, user: str) -> str:
        """Return the address in NFKC, case-folded, stripped. allauth ignores case and outer spaces."""
        return canonical(user).strip()

    async def challenge(self, case: Case) -> Outcome:
        """Accept at once: allauth asks no question."""
        return Accepted(value=Secret(""))

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        """
        Have a code or a link e-mailed. Another code of the same flow is asked for in its session, where it replaces the
        one before, even if the reply is lost.
        """
        read = partial(read_request, by_link=self._by_link, in_session=bool(case.continuation))
        return await self._post(self._request_url, {"email": plain(case.user)}, read, case)

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        """Have the code judged: accepted with the code itself, which goes with the new password."""
        return await self._post(self._reset_url, {"key": code.reveal()}, partial(read_exchange, code=code), case, code)

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        """Set the new password. One with outer spaces is refused unsent: allauth would cut them off without a word."""
        if _is_cut_off(new.secret):
            return Rejected(reasons=[OUTER_SPACE])
        body = {"key": token.reveal(), "password": new.secret.reveal()}
        return await self._post(self._reset_url, body, read_update, case, token, new.secret)

    async def log_in(self, case: Case, password: Secret) -> Outcome:
        """
        Log in: accepted if the password is right, also where a further step is missing. The session that this makes is
        left to expire: nobody keeps its token.
        """
        if _is_cut_off(password):
            return UNSENDABLE
        body = {"email": plain(case.user), "password": password.reveal()}
        return await self._post(self._log_in_url, body, read_log_in, replace(case, continuation=None), password)

    async def probe(self, case: Case) -> Outcome:
        """Ask for the configuration, which changes nothing."""
        return judge(await self._sender.send("GET", self._config_url), read_probe, (case.user,))

    async def aclose(self) -> None:
        """Close the connections. Later calls return `NotActed`. Idempotent."""
        await self._sender.aclose()

    async def _post(
        self,
        url: URL,
        body: dict[str, str],
        read: Callable[[Answer], Outcome | None],
        case: Case,
        *secrets: Secret,
    ) -> Outcome:
        try:
            content = msgspec.json.encode(body)
        except UnicodeEncodeError:
            return UNSENDABLE
        session = Secret((case.continuation or NO_SESSION).decode("latin-1"))
        headers = {"X-Session-Token": session.reveal()} if session else None
        result = await self._sender.send("POST", url, content, headers)
        return judge(result, read, (case.user, session, *secrets))


def _is_cut_off(password: Secret) -> bool:
    """Return whether allauth would take it for another password: without its outer spaces."""
    return password.reveal() != password.reveal().strip()
