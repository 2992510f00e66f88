"""Calls of Amazon Cognito user pools that need no AWS credentials. `cognito_protocol` judges the replies."""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from yarl import URL

from reset_flow.domain import validation
from reset_flow.domain.capabilities import Capabilities, CodeFormat
from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Rejected
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import canonical, plain
from reset_flow.transports import http
from reset_flow.transports.cognito_protocol import judge, read_log_in, read_request, read_update
from reset_flow.transports.replies import UNSENDABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from ssl import SSLContext

    from aiohttp import ClientSession

    from reset_flow.domain.flow import NewCredential
    from reset_flow.domain.outcomes import Outcome
    from reset_flow.ports import Case
    from reset_flow.transports.replies import Document

CODE_LIFETIME = timedelta(hours=1)
CLIENT_ID = re.compile(r"[\w+]{1,128}", re.ASCII)
NO_TOKEN = "none"  # noqa: S105 - in the form of a token, and surely none


class CognitoTransport:
    """
    Talk to one app client of a user pool. May be made outside an event loop and before a fork, and used by one loop
    after another: each opens connections of its own at its first call.

    Args:
        endpoint: Such as `https://cognito-idp.eu-central-1.amazonaws.com`. It must be https, except on the loopback
            interface.

        client_id, client_secret: Of the app client; the secret only if it has one.

        answers_alike: Whether the client's `PreventUserExistenceErrors` is `ENABLED`.

        deadline: For a whole call, reply included.

        connect_deadline: For the connection, as a part of that.

        session: A session to use instead of one of its own; see `Sender` for its owner's duties.

        trust_env: Whether a session of its own reads proxies and .netrc from the environment.

        proxy: The address of the proxy to the endpoint, for a session of its own: `http://[user:password@]host:port`.

        ssl: A context that verifies certificates. Default: as the system does.

        name: Sealed into flows, so keep it when another client takes over. Default: `cognito:`, the URL and the client.

        aliases: Other names of the same pool, such as those of former clients: flows that are bound to them are taken.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    def __init__(
        self,
        endpoint: str | Secret,
        client_id: str,
        *,
        client_secret: str | Secret | None = None,
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
        endpoint, proxy = Secret(endpoint), validation.hidden(proxy)
        self._client_id, self._secret = plain(client_id), validation.hidden(client_secret)
        base = http.endpoint(endpoint, "endpoint")
        if not (isinstance(self._client_id, str) and CLIENT_ID.fullmatch(self._client_id)):
            raise ConfigurationError("client_id must be 1 to 128 letters and digits")
        if self._secret is not None and not (self._secret and self._secret.encodable):
            raise ConfigurationError("client_secret must be text: leave it out if the app client has none")
        self._url = URL(f"{base}/", encoded=True)
        self._sender = http.Sender(
            deadline=deadline,
            connect_deadline=connect_deadline,
            session=session,
            trust_env=trust_env,
            proxy=proxy,
            ssl=ssl,
            headers={"Accept-Encoding": "identity"},
            content_type="application/x-amz-json-1.1",
        )
        self.name = f"cognito:{base}/{self._client_id}" if name is None else validation.broker(name, "name")
        self.aliases = validation.brokers(aliases)
        self.deadline = deadline
        self.capabilities = Capabilities(
            code=CodeFormat.digits(6), verifies_code=False, code_lifetime=CODE_LIFETIME, answers_alike=answers_alike
        )

    def __repr__(self) -> str:
        # Tracebacks with variables also show an instance whose constructor failed half-way.
        return f"CognitoTransport(name={getattr(self, 'name', None)!r})"

    def canonical_user(self, user: str) -> str:
        """
        Return the login in NFKC, case-folded, stripped: pools may ignore case.

        A login, an e-mail and a phone number of one person are three users here: only the pool knows that they are one.
        """
        return canonical(user).strip()

    async def challenge(self, case: Case) -> Outcome:
        """Accept at once: a pool asks no question."""
        return Accepted(value=Secret(""))

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        """Have a code sent by e-mail or SMS (`ForgotPassword`)."""
        body = {"ClientId": self._client_id, "Username": plain(case.user), **self._secret_hash(case, "SecretHash")}
        return await self._call("ForgotPassword", body, read_request)

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        """Do nothing: a pool judges a code only together with the new password."""
        return NotActed(cause=Cause.PROTOCOL, detail="a code is judged with the new password only")

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        """Set the new password with the code (`ConfirmForgotPassword`)."""
        body = {"ClientId": self._client_id, "Username": plain(case.user), **self._secret_hash(case, "SecretHash")}
        body |= {"ConfirmationCode": token.reveal(), "Password": new.secret.reveal()}
        return await self._call("ConfirmForgotPassword", body, read_update)

    async def log_in(self, case: Case, password: Secret) -> Outcome:
        """
        Log in (`InitiateAuth` with `USER_PASSWORD_AUTH`): accepted if the password is right, also where a second factor
        is still missing, whose message it may send. The tokens of a whole log-in are dropped.
        """
        given = {"USERNAME": plain(case.user), "PASSWORD": password.reveal(), **self._secret_hash(case, "SECRET_HASH")}
        body = {"ClientId": self._client_id, "AuthFlow": "USER_PASSWORD_AUTH", "AuthParameters": given}
        return await self._call("InitiateAuth", body, read_log_in)

    async def probe(self, case: Case) -> Outcome:
        """Ask whose token it is that is none (`GetUser`): accepted if a pool refuses. Leave its faults as they are."""
        outcome = await self._call("GetUser", {"AccessToken": NO_TOKEN}, lambda _: None)
        return Accepted() if isinstance(outcome, Rejected) else outcome

    async def aclose(self) -> None:
        """Close the connections. Later calls return `NotActed`. Idempotent."""
        await self._sender.aclose()

    def _secret_hash(self, case: Case, key: str) -> dict[str, str]:
        """Return what proves that the client has its secret, under this key; nothing if it has none."""
        if self._secret is None:
            return {}
        # A login that UTF-8 can't carry is found out when the body is encoded.
        message = f"{case.user}{self._client_id}".encode("utf-8", "surrogatepass")
        return {key: b64encode(hmac.digest(self._secret.reveal().encode(), message, "sha256")).decode()}

    async def _call(self, operation: str, body: dict[str, Any], read: Callable[[Document], Accepted | None]) -> Outcome:
        try:
            content = msgspec.json.encode(body)
        except UnicodeEncodeError:
            return UNSENDABLE
        headers = {"X-Amz-Target": f"AWSCognitoIdentityProviderService.{operation}"}
        result = await self._sender.send("POST", self._url, content, headers)
        return judge(result, read, (self._client_id, *body.get("AuthParameters", body).values()))
