"""Calls of the ETNA API (AutoShares Trader). `etna_protocol` judges the replies."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import quote

import msgspec
from yarl import URL

from reset_flow.domain import validation
from reset_flow.domain.capabilities import Capabilities
from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.flow import Credential
from reset_flow.domain.outcomes import Cause, NotActed
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import canonical, plain
from reset_flow.transports.etna_protocol import (
    LOG_IN_KEYS,
    judge,
    judge_question,
    read_log_in,
    read_question,
    read_request,
    read_token,
    read_update,
)
from reset_flow.transports.http import Sender, endpoint, fits_header
from reset_flow.transports.replies import UNSENDABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from ssl import SSLContext

    from aiohttp import ClientSession

    from reset_flow.domain.flow import NewCredential
    from reset_flow.domain.outcomes import Accepted, Outcome
    from reset_flow.ports import Case
    from reset_flow.transports.etna_protocol import Refusal
    from reset_flow.transports.http import Result
    from reset_flow.transports.replies import Document, Secrets

Revision: TypeAlias = Literal["identifiers", "password"]
"""The revision of the broker's documents that step 3 follows."""

IDENTIFIERS = {Credential.PASSWORD: "ResetPassword", Credential.PIN: "ResetPinCode"}
PIN_DETAILS = {"image_name": "ImageName", "personal_phrase": "PersonalPhrase"}
PIN_METHODS = frozenset({"GET", "PATCH", "POST", "PUT"})


class EtnaTransport:
    """
    Talk to one broker. May be made outside an event loop and before a fork, and used by one loop after another: each
    opens connections of its own at its first call.

    Args:
        base_url: The broker's `apiURL`. It must be https, except on the loopback interface.

        app_key: Value of the header `Et-App-Key`.

        revision: The revision of the documents that step 3 follows; `"password"` cannot reset a PIN.

        deadline: For a whole call, reply included.

        connect_deadline: For the connection, as a part of that.

        session: A session to use instead of one of its own; see `Sender` for its owner's duties.

        trust_env: Whether a session of its own reads proxies and .netrc from the environment.

        proxy: The address of the proxy to the broker, for a session of its own: `http://[user:password@]host:port`.

        ssl: A context that verifies certificates. Default: as the system does.

        pin_method: HTTP method of the change of a PIN: the documents print a doubtful GET.

        name: Sealed into flows, so keep it when the broker moves. Default: `etna:` and the URL.

        aliases: Names that the same broker had before: flows that are bound to them are taken, too.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    def __init__(
        self,
        base_url: str | Secret,
        app_key: str | Secret,
        *,
        revision: Revision = "identifiers",
        deadline: timedelta = timedelta(seconds=10),
        connect_deadline: timedelta = timedelta(seconds=5),
        session: ClientSession | None = None,
        trust_env: bool = False,
        proxy: str | Secret | None = None,
        ssl: SSLContext | None = None,
        pin_method: str = "POST",
        name: str | None = None,
        aliases: Iterable[str] = (),
    ) -> None:
        base_url, app_key, proxy = Secret(base_url), Secret(app_key), validation.hidden(proxy)
        base = endpoint(base_url)
        if not (app_key.encodable and fits_header(app_key.reveal())):
            raise ConfigurationError("app_key is empty or has characters that no header can carry")
        if revision not in ("identifiers", "password"):
            raise ConfigurationError("revision must be 'identifiers' or 'password'")
        if str(pin_method).upper() not in PIN_METHODS:
            raise ConfigurationError(f"pin_method must be one of {', '.join(sorted(PIN_METHODS))}")
        self._revision, self._pin_method = revision, pin_method.upper()
        self._sender = Sender(
            deadline=deadline,
            connect_deadline=connect_deadline,
            session=session,
            trust_env=trust_env,
            proxy=proxy,
            ssl=ssl,
            headers={"Et-App-Key": app_key, "Accept": "application/json", "Accept-Encoding": "identity"},
            content_type="application/json",
        )
        self.name = f"etna:{base}" if name is None else validation.broker(name, "name")
        self.aliases, self.deadline = validation.brokers(aliases), deadline
        credentials = IDENTIFIERS if revision == "identifiers" else [Credential.PASSWORD]
        self.capabilities = Capabilities(credentials=credentials)

        users = f"{base}/v1.0/users"
        self._challenge_url = f"{users}/password/secret-question?username="
        self._request_url = URL(f"{users}/password/reset", encoded=True)
        self._exchange_url = URL(f"{users}/{revision}/reset/code", encoded=True)
        self._password_url = URL(f"{users}/passwords/reset/", encoded=True)
        self._pin_url = URL(f"{users}/pincode/change", encoded=True)
        self._log_in_url = URL(f"{base}/token", encoded=True)

    def __repr__(self) -> str:
        # Tracebacks with variables also show an instance whose constructor failed half-way.
        return f"EtnaTransport(name={getattr(self, 'name', None)!r}, revision={getattr(self, '_revision', None)!r})"

    def canonical_user(self, user: str) -> str:
        """
        Return the login or e-mail in NFKC, case-folded, stripped.

        The broker does not document which spellings it takes for the same user. Too wide a form makes two users share a
        budget; too narrow a form gives an attacker one budget for each spelling. So it is wide.
        """
        return canonical(user).strip()

    async def challenge(self, case: Case) -> Outcome:
        """Ask for the secret question (step 2): accepted with it, with `""` for none, or with `None` for unknown."""
        return await self._ask_question(case, judge_question)

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        """Ask for a code by e-mail (step 1)."""
        body = {"User": plain(case.user)} | ({} if answer is None else {"SecretQuestionAnswer": answer.reveal()})
        return await self._send_json("POST", self._request_url, body, read_request, case.user, answer)

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        """Exchange a code for a token (step 3). Send the code as text, with its leading zeros."""
        if case.credential not in self.capabilities.credentials:
            return NotActed(cause=Cause.PROTOCOL, detail="this revision of the API can't reset it")
        body = {"Code": code.reveal()}
        if self._revision == "identifiers":
            body["Identifier"] = IDENTIFIERS[case.credential]
        return await self._send_json("POST", self._exchange_url, body, read_token, case.user, code)

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        """Set the new password (step 4) or the new PIN."""
        body, headers = {"Token": token.reveal()}, None
        if case.credential is Credential.PASSWORD:
            method, url = "PUT", self._password_url
            body |= {"Password": new.secret.reveal(), "PasswordConfirmation": new.secret.reveal()}
        else:
            method, url = self._pin_method, self._pin_url
            body["Pin"] = new.secret.reveal()
            body |= {PIN_DETAILS[name]: each.reveal() for name, each in new.details.items() if name in PIN_DETAILS}
            if (bearer := new.details.get("authorization")) is not None:
                if not fits_header(bearer.reveal()):
                    return UNSENDABLE
                headers = {"Authorization": f"Bearer {bearer.reveal()}"}
        secrets = (case.user, token, new.secret, new.details.get("personal_phrase"), new.details.get("authorization"))
        return await self._send_json(method, url, body, read_update, *secrets, headers=headers)

    async def log_in(self, case: Case, password: Secret) -> Outcome:
        """
        Log in: accepted if the password is right, also where a second factor is still missing.

        Do not send a name or a password that a header cannot carry unchanged: cut or changed on the way, it might be
        another password that is right. Letters beyond ASCII are sent as UTF-8, as aiohttp writes headers; a broker that
        reads them as Latin-1 refuses the log-in, which proves nothing.
        """
        if not (fits_header(case.user) and fits_header(password.reveal())):
            return UNSENDABLE
        headers = {"Username": case.user, "Password": password.reveal()}
        result = await self._sender.send("POST", self._log_in_url, b"", headers)
        return judge(result, read_log_in, (case.user, password), LOG_IN_KEYS)

    async def probe(self, case: Case) -> Outcome:
        """Ask for the secret question (step 2) again, which changes nothing, and leave its faults as they are."""
        return await self._ask_question(case, lambda result, secrets: judge(result, read_question, secrets))

    async def aclose(self) -> None:
        """Close the connections. Later calls return `NotActed`. Idempotent."""
        await self._sender.aclose()

    async def _ask_question(self, case: Case, read: Callable[[Result, Secrets], Outcome]) -> Outcome:
        try:
            url = URL(self._challenge_url + quote(case.user, safe=""), encoded=True)
        except UnicodeEncodeError:
            return UNSENDABLE
        return read(await self._sender.send("GET", url), (case.user,))

    async def _send_json(
        self,
        method: str,
        url: URL,
        body: dict[str, str],
        read: Callable[[Document], Accepted | Refusal | None],
        *secrets: str | Secret | None,
        headers: dict[str, str] | None = None,
    ) -> Outcome:
        try:
            content = msgspec.json.encode(body)
        except UnicodeEncodeError:
            return UNSENDABLE
        return judge(await self._sender.send(method, url, content, headers), read, secrets)
