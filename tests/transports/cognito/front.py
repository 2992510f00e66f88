"""
A user pool on loopback, as a program of its own: moto's server, and before it what moto leaves out.

moto keeps the users, judges log-ins, and issues and spends codes. What stands before it makes six digits of moto's
codes, enforces a password policy, checks who calls, limits attempts if told to, and refuses in the errors that AWS
documents. Prints the addresses of the pool and of its control as JSON, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
import sys
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import attrs
from aiohttp import ClientSession, web
from moto.server import ThreadedMotoServer

from tests.transports.cognito.clients import ALIKE, CLIENT_SECRET, FIRST_PASSWORD, PLAIN, WITH_SECRET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

POLICY = (
    (r".{8,}", "Password not long enough"),
    (r".*[A-Z].*", "Password must have uppercase characters"),
    (r".*[a-z].*", "Password must have lowercase characters"),
    (r".*[0-9].*", "Password must have numeric characters"),
    (r".*[^A-Za-z0-9 ].*", "Password must have symbol characters"),
)


class Refused(Exception):
    """An error in a document of AWS's."""


@attrs.define
class User:
    """
    What was done about one user.

    Attributes:
        code: In the newest e-mail, until it is spent.

        moto_code: The same, as moto knows it.

        judged: The codes that arrived and were judged.

        limit: How many codes may be asked for and typed; `None`: any number.
    """

    code: str | None = None
    moto_code: str = ""
    mails: int = 0
    judged: list[str] = attrs.field(factory=list)
    resets: int = 0
    counted: int = 0
    limit: int | None = None


class Front:
    """Stands before moto."""

    def __init__(self, moto: str, session: ClientSession) -> None:
        self._moto_url = moto
        self._session = session
        self._users: dict[str, User] = {}
        self._pool = self._client = ""
        self._operations: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "ForgotPassword": self._forgot_password,
            "ConfirmForgotPassword": self._confirm_forgot_password,
            "InitiateAuth": self._initiate_auth,
            "GetUser": lambda body: self._moto("GetUser", **body),
        }

    async def open(self) -> None:
        recovery = {"RecoveryMechanisms": [{"Priority": 1, "Name": "verified_email"}]}
        made = await self._moto("CreateUserPool", PoolName="pool", AccountRecoverySetting=recovery)
        self._pool = made["UserPool"]["Id"]
        made = await self._moto("CreateUserPoolClient", UserPoolId=self._pool, ClientName="client")
        self._client = made["UserPoolClient"]["ClientId"]

    async def serve(self, request: web.Request) -> web.Response:
        """Answer as the pool."""
        operation = request.headers.get("X-Amz-Target", "").removeprefix("AWSCognitoIdentityProviderService.")
        status, document = 200, dict[str, Any]()
        try:
            document = await self._operations.get(operation, self._unknown)(await request.json())
        except Refused as refused:
            status, document = 400, dict(zip(("__type", "message"), refused.args, strict=True))
        return web.json_response(document, status=status, content_type="application/x-amz-json-1.1")

    async def control(self, request: web.Request) -> web.Response:
        """Do what tests need beside the pool's own API."""
        given = await request.json()
        match request.match_info["what"]:
            case "add":
                await self._add_user(given["user"], mfa=given["mfa"])
            case "change":
                for name, value in given["to"].items():
                    setattr(self._users[given["user"]], name, value)
            case "log-in":
                auth = {"USERNAME": given["user"], "PASSWORD": given["password"]}
                try:
                    await self._moto(
                        "InitiateAuth", ClientId=self._client, AuthFlow="USER_PASSWORD_AUTH", AuthParameters=auth
                    )
                except Refused:
                    return web.json_response(data=False)
                return web.json_response(data=True)
        return web.json_response(attrs.asdict(self._users[given["user"]]))

    async def _add_user(self, user: str, *, mfa: bool) -> None:
        named = {"UserPoolId": self._pool, "Username": user}
        attributes = {"email": f"{user}@example.com", "email_verified": "true"}
        pairs = [{"Name": name, "Value": value} for name, value in attributes.items()]
        await self._moto("AdminCreateUser", **named, UserAttributes=pairs, MessageAction="SUPPRESS")
        await self._moto("AdminSetUserPassword", **named, Password=FIRST_PASSWORD, Permanent=True)
        if mfa:
            wanted = {"Enabled": True, "PreferredMfa": True}
            await self._moto("AdminSetUserMFAPreference", **named, SMSMfaSettings=wanted)
        self._users[user] = User()

    async def _forgot_password(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["Username"]
        user = self._found(body["ClientId"], name, body.get("SecretHash"))
        if user is None:
            return {"CodeDeliveryDetails": {"Destination": f"{name[0]}***@e***", "DeliveryMedium": "EMAIL"}}
        self._count(user)
        sent = await self._moto("ForgotPassword", ClientId=self._client, Username=name)
        user.code, user.moto_code = f"{secrets.randbelow(10**6):06}", sent.pop("moto_code")
        user.mails += 1
        return sent

    async def _confirm_forgot_password(self, body: dict[str, Any]) -> dict[str, Any]:
        password, code = body["Password"], body["ConfirmationCode"]
        user = self._found(body["ClientId"], body["Username"], body.get("SecretHash"))
        if not re.fullmatch(r"\S+.*\S+", password):
            pattern = "Member must satisfy regular expression pattern: ^[\\S]+.*[\\S]+$"
            words = f"1 validation error detected: Value at 'password' failed to satisfy constraint: {pattern}"
            raise Refused("InvalidParameterException", words)
        for pattern, flaw in POLICY:
            if not re.fullmatch(pattern, password):
                raise Refused("InvalidPasswordException", f"Password did not conform with policy: {flaw}")
        if user is not None:
            self._count(user)
            user.judged.append(code)
        if user is not None and user.code is None:
            raise Refused("ExpiredCodeException", "Invalid code provided, please request a code again.")
        if user is None or code != user.code:
            raise Refused("CodeMismatchException", "Invalid verification code provided, please try again.")
        await self._moto(
            "ConfirmForgotPassword",
            ClientId=self._client,
            Username=body["Username"],
            Password=password,
            ConfirmationCode=user.moto_code,
        )
        user.code = None
        user.resets += 1
        return {}

    async def _initiate_auth(self, body: dict[str, Any]) -> dict[str, Any]:
        given = body["AuthParameters"]
        if self._found(body["ClientId"], given["USERNAME"], given.get("SECRET_HASH")) is None:
            raise Refused("NotAuthorizedException", "Incorrect username or password.")
        return await self._moto("InitiateAuth", **body | {"ClientId": self._client})

    async def _unknown(self, body: dict[str, Any]) -> dict[str, Any]:
        raise Refused("UnknownOperationException", "")

    def _found(self, client: str, name: str, secret_hash: str | None) -> User | None:
        """Return the user; `None` if there is none and the client does not let on."""
        if client not in (PLAIN, WITH_SECRET, ALIKE):
            raise Refused("ResourceNotFoundException", f"User pool client {client} does not exist.")
        if client == WITH_SECRET and secret_hash is None:
            raise Refused(
                "NotAuthorizedException", f"Client {client} is configured with secret but SECRET_HASH was not received"
            )
        right = b64encode(hmac.digest(CLIENT_SECRET.encode(), f"{name}{client}".encode(), "sha256")).decode()
        if secret_hash is not None and (client != WITH_SECRET or secret_hash != right):
            raise Refused("NotAuthorizedException", f"Unable to verify secret hash for client {client}")
        if name not in self._users and client != ALIKE:
            raise Refused("UserNotFoundException", "User does not exist.")
        return self._users.get(name)

    @staticmethod
    def _count(user: User) -> None:
        user.counted += 1
        if user.limit is not None and user.counted > user.limit:
            raise Refused("LimitExceededException", "Attempt limit exceeded, please try after some time.")

    async def _moto(self, operation: str, **body: Any) -> dict[str, Any]:
        headers = {
            "X-Amz-Target": f"AWSCognitoIdentityProviderService.{operation}",
            "Content-Type": "application/x-amz-json-1.1",
        }
        async with self._session.post(self._moto_url, headers=headers, data=json.dumps(body)) as reply:
            document: dict[str, Any] = json.loads(await reply.read())
            if code := reply.headers.get("x-moto-forgot-password-confirmation-code"):
                document["moto_code"] = code
        if "__type" in document:
            raise Refused(document["__type"], document["message"])
        return document


async def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    async with ClientSession() as session:
        front = Front("http://{}:{}".format(*moto.get_host_and_port()), session)
        await front.open()
        pool, control = web.Application(), web.Application()
        pool.router.add_post("/", front.serve)
        control.router.add_post("/{what}", front.control)
        urls = []
        for app in (pool, control):
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            urls.append("http://{}:{}".format(*runner.addresses[0]))
        print(json.dumps(urls), flush=True)  # noqa: T201 - its result
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
