"""What schemathesis can't know of resets: the secret that opens a flow, and what a person would type."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import schemathesis

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemathesis import Case, HookContext
    from schemathesis.core.transport import Response

USER = "robert.zak"
KEY = "Idempotency-Key"

secrets: dict[str, str] = {}
sent: dict[str, int] = {}


def newest_code() -> str:
    with urlopen(f"{os.environ['SANDBOX']}/sandbox/inbox?user={USER}") as reply:  # noqa: S310 - on this machine
        mails = json.load(reply)
    return mails[-1]["code"] if mails else "000000"


def is_login(body: Any) -> bool:
    """Return whether a login, if one is given, is one: a schema can't say so."""
    login = body.get("user", USER).strip()
    return bool(login) and login.isprintable()


TYPED: dict[str, Callable[[], Any]] = {
    "start": lambda: {"user": USER},
    "answer": lambda: {"answer": "Peterson"},
    "verify": lambda: {"code": newest_code()},
    "set_password": lambda: {"password": "violet tractor sings at 5 am"},
}


@schemathesis.hook
def before_call(_: HookContext, case: Case[Any], __: dict[str, Any]) -> None:
    """Open the flow, and have each second request be what a person would send."""
    name = case.operation.definition.raw["operationId"]
    if secret := secrets.get(str(case.path_parameters.get("id"))):
        case.headers["Authorization"] = f"Bearer {secret}"
    if not case.meta or not case.meta.generation.mode.is_positive:
        return
    sent[name] = sent.get(name, 0) + 1
    if name in TYPED and (sent[name] % 2 or not is_login(case.body)):
        case.body = TYPED[name]()
    if name == "start" and KEY in case.headers:  # a schema can't say how random it must be
        case.headers[KEY] = hashlib.sha256(str(case.headers[KEY]).encode()).hexdigest()


@schemathesis.hook
def after_call(_: HookContext, __: Case[Any], response: Response) -> None:
    """Keep the secret of a new flow."""
    if response.status_code == 201:
        flow = response.json()
        secrets[flow["id"]] = flow["secret"]
