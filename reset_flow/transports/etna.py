"""The calls of the ETNA API (AutoShares Trader); `etna_protocol` says what their replies mean."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import quote

import msgspec
from yarl import URL

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.flow import Credential
from reset_flow.domain.outcomes import Cause, NotActed
from reset_flow.domain.password_rules import canonical
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import plain
from reset_flow.transports.etna_protocol import (
    LOG_IN,
    code_sent,
    judged,
    logged_in,
    new_credential_set,
    question_asked,
    token_of,
)
from reset_flow.transports.http import Sender, carried, endpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

    from aiohttp import ClientSession

    from reset_flow.domain.flow import NewCredential
    from reset_flow.domain.outcomes import Accepted, Outcome
    from reset_flow.ports import Case
    from reset_flow.transports.etna_protocol import Document, No

__all__ = ["EtnaTransport"]

Revision: TypeAlias = Literal["identifiers", "password"]
"""Which of the two revisions of the broker's documents step 3 follows."""

IDENTIFIERS = {Credential.PASSWORD: "ResetPassword", Credential.PIN: "ResetPinCode"}
PIN_METHODS = frozenset({"GET", "PATCH", "POST", "PUT"})
UNSENDABLE = NotActed(cause=Cause.PROTOCOL, detail="it has characters that the request can't carry")


class EtnaTransport:
    """
    Talks to one broker. May be made outside an event loop; opens its connections at the first call.

    `base_url` is what the broker calls `apiURL`: https, except to this machine. The two deadlines are for a whole call,
    reply included, and for the connection in it. Of a `session` that is passed in, see `Sender`. `pin_method` is an
    option because the documents print a doubtful GET. `name` is sealed into flows, so it is worth keeping when the
    broker moves; without one it is made of the URL.

    Raises:
        ConfigurationError: Of such settings no transport can be made.
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
        ssl: SSLContext | None = None,
        pin_method: str = "POST",
        name: str | None = None,
    ) -> None:
        base_url, app_key = Secret(base_url), Secret(app_key)
        base = endpoint(base_url)
        if not carried(app_key.reveal()):
            raise ConfigurationError("app_key is empty or has characters that no header can carry")
        if revision not in ("identifiers", "password"):
            raise ConfigurationError("revision must be 'identifiers' or 'password'")
        if pin_method.upper() not in PIN_METHODS:
            raise ConfigurationError(f"pin_method must be one of {', '.join(sorted(PIN_METHODS))}")
        self._revision = revision
        self._pin_method = pin_method.upper()
        self._sender = Sender(
            deadline=deadline,
            connect_deadline=connect_deadline,
            session=session,
            trust_env=trust_env,
            ssl=ssl,
            headers=partial(_standing, app_key),
            content_type="application/json",
        )
        self.name = f"etna:{base}" if name is None else name
        self.deadline = deadline
        self.credentials = frozenset(IDENTIFIERS if revision == "identifiers" else {Credential.PASSWORD})

        users = f"{base}/v1.0/users"
        code_of = "identifiers" if revision == "identifiers" else "password"
        self._challenge_url = f"{users}/password/secret-question?username="
        self._request_url = URL(f"{users}/password/reset", encoded=True)
        self._exchange_url = URL(f"{users}/{code_of}/reset/code", encoded=True)
        self._password_url = URL(f"{users}/passwords/reset/", encoded=True)
        self._pin_url = URL(f"{users}/pincode/change", encoded=True)
        self._log_in_url = URL(f"{base}/token", encoded=True)

    def __repr__(self) -> str:
        # One that was refused half-way is shown as well, by whoever logs frames.
        return f"EtnaTransport(name={getattr(self, 'name', None)!r}, revision={getattr(self, '_revision', None)!r})"

    def canonical_user(self, user: str) -> str:
        """
        The login or e-mail in NFKC, case-folded, stripped.

        Which spellings the broker takes for the same user is not documented. Too wide a guess makes two users share a
        budget; too narrow a one gives who tries codes another budget for each spelling. So it is wide.
        """
        return canonical(user).strip()

    async def challenge(self, case: Case) -> Outcome:
        """Step 2. Accepted with the question, with `""` for none, or with `None`: the broker can't be asked."""
        try:
            url = URL(self._challenge_url + quote(case.user, safe=""), encoded=True)
        except UnicodeEncodeError:
            return UNSENDABLE
        result = await self._sender.send("GET", url)
        return question_asked(result, (case.user,))

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        """Step 1."""
        body = {"User": plain(case.user)}
        if answer is not None:
            body["SecretQuestionAnswer"] = answer.reveal()
        return await self._sent("POST", self._request_url, body, code_sent, case.user, answer)

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        """Step 3. The code goes out as the text that it is given as."""
        if case.credential not in self.credentials:
            return NotActed(cause=Cause.PROTOCOL, detail="this revision of the API can't reset it")
        body = {"Code": code.reveal()}
        if self._revision == "identifiers":
            body["Identifier"] = IDENTIFIERS[case.credential]
        return await self._sent("POST", self._exchange_url, body, token_of, case.user, code)

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        """Step 4, or the change of the PIN."""
        secrets = (case.user, token, new.secret, new.personal_phrase, new.authorization)
        if case.credential is Credential.PASSWORD:
            body = {
                "Token": token.reveal(),
                "Password": new.secret.reveal(),
                "PasswordConfirmation": new.secret.reveal(),
            }
            return await self._sent("PUT", self._password_url, body, new_credential_set, *secrets)

        body = {"Token": token.reveal(), "Pin": new.secret.reveal()}
        if new.image_name is not None:
            body["ImageName"] = plain(new.image_name)
        if new.personal_phrase is not None:
            body["PersonalPhrase"] = new.personal_phrase.reveal()
        headers = None
        if new.authorization is not None:
            if not carried(new.authorization.reveal()):
                return UNSENDABLE
            headers = {"Authorization": f"Bearer {new.authorization.reveal()}"}
        return await self._sent(
            self._pin_method, self._pin_url, body, new_credential_set, *secrets, authorization=headers
        )

    async def log_in(self, case: Case, password: Secret) -> Outcome:
        """
        Accepted if the password is right, a second factor being asked for included.

        A name or password that a header can't carry as it is, is not sent: cut or changed on the way, it might be
        another password that is right. Letters beyond ASCII go out as UTF-8, as aiohttp writes headers; a broker that
        reads them as Latin-1 refuses the log-in, which says nothing.
        """
        if not (carried(case.user) and carried(password.reveal())):
            return UNSENDABLE
        headers = {"Username": case.user, "Password": password.reveal()}
        result = await self._sender.send("POST", self._log_in_url, b"", headers)
        return judged(result, logged_in, (case.user, password), LOG_IN)

    async def aclose(self) -> None:
        """Let go of the connections. A call that comes later gets `NotActed`. Idempotent."""
        await self._sender.aclose()

    async def _sent(
        self,
        method: str,
        url: URL,
        body: dict[str, str],
        read: Callable[[Document], Accepted | No | None],
        *secrets: str | Secret | None,
        authorization: dict[str, str] | None = None,
    ) -> Outcome:
        try:
            content = msgspec.json.encode(body)
        except UnicodeEncodeError:
            return UNSENDABLE
        return judged(await self._sender.send(method, url, content, authorization), read, secrets)


def _standing(app_key: Secret) -> dict[str, str]:
    """The headers of every request."""
    return {"Et-App-Key": app_key.reveal(), "Accept": "application/json", "Accept-Encoding": "identity"}
