"""Map calls to operations of the broker, and results to HTTP statuses and JSON. Without connections."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import attrs

from reset_flow.sandbox import shapes
from reset_flow.sandbox.broker import IMAGES, Broker, Decision, LogInState, Refused, WrongAnswer
from reset_flow.sandbox.grants import RESET_PASSWORD, RESET_PIN
from reset_flow.sandbox.settings import Settings

BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, WRONG_VERB, TOO_LARGE = 400, 401, 404, 405, 413

CHANGE_PIN = "change_pin"
PATHS: Mapping[str, tuple[str, str]] = {
    "/token": ("POST", "log_in"),
    "/v1.0/assets/security-images": ("GET", "images"),
    "/v1.0/users/identifiers/reset/code": ("POST", "exchange"),
    "/v1.0/users/password/reset": ("POST", "request"),
    "/v1.0/users/password/reset/code": ("POST", "exchange"),
    "/v1.0/users/password/secret-question": ("GET", "challenge"),
    "/v1.0/users/passwords/reset/": ("PUT", "update"),
    "/v1.0/users/pincode/change": ("POST", CHANGE_PIN),
}
LATER_REVISION = "/v1.0/users/identifiers/reset/code"


class Invalid(Exception):
    """The request fails validation."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        super().__init__("validation failed")
        self.fields = fields


@attrs.frozen(kw_only=True)
class Ruling:
    """The broker's reply, and the action that belongs to it, if any."""

    status: int = 200
    reply: Any = attrs.field(repr=False)
    act: Callable[[], None] | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class Incoming:
    """
    The parts of a call that the broker reads.

    Attributes:
        path: The path below ``/api``, not decoded.

        headers: By lower-case name.
    """

    method: str
    path: str
    query: str = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)

    def texts(self, *required: str, optional: Sequence[str] = ()) -> dict[str, str]:
        """Return the values of these keys of the JSON body; raise ``Invalid`` unless all of them are text."""
        document = self._document()
        if document is None:
            raise Invalid({"body": ["The body must be a JSON object."]})
        fields = {key: ["The field is required."] for key in required if document.get(key) in (None, "")}
        found = {key: document[key] for key in (*required, *optional) if document.get(key) is not None}
        fields |= {key: ["The value must be text."] for key, value in found.items() if not isinstance(value, str)}
        if fields:
            raise Invalid(fields)
        return found

    def text(self, key: str) -> str:
        """Return the value of one key of the body, or ``""`` if it is no text."""
        value = (self._document() or {}).get(key)
        return value if isinstance(value, str) else ""

    def parameter(self, name: str) -> str:
        """Return one value of the query, decoded, or ``""``."""
        return parse_qs(self.query).get(name, [""])[0]

    def _document(self) -> dict[str, Any] | None:
        try:
            document = json.loads(self.body.decode())
        except (ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None


class Routes:
    """The broker's API, both revisions at once."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._rulings: dict[str, Callable[[Incoming], Ruling]] = {
            "challenge": self._challenge,
            CHANGE_PIN: self._change_pin,
            "exchange": self._exchange,
            "images": self._images,
            "log_in": self._log_in,
            "request": self._request,
            "update": self._update,
        }

    @property
    def _settings(self) -> Settings:
        return self._broker.settings

    def name(self, method: str, path: str) -> str:
        """Return the name of the route, or ``unknown`` for a path or verb that the API does not have."""
        verb, route = PATHS.get(path, ("", "unknown"))
        verbs = self._settings.pin_verbs if route == CHANGE_PIN else (verb,)
        return route if method in verbs else "unknown"

    def user(self, route: str, incoming: Incoming) -> str | None:
        """Return the login that the call concerns: the one that it names, or the owner of its code or token."""
        match route:
            case "request":
                name: str | None = incoming.text("User")
            case "challenge":
                name = incoming.parameter("username")
            case "log_in":
                name = incoming.headers.get("username")
            case "exchange":
                name = self._broker.codes.owner(incoming.text("Code"))
            case "update" | "change_pin":
                name = self._broker.tokens.owner(incoming.text("Token"))
            case _:
                name = None
        user = self._broker.users.find(name) if name else None
        return None if user is None else user.login

    def rule(self, route: str, incoming: Incoming) -> Ruling:
        """Decide about the call. Nothing has happened until ``act`` is called."""
        if incoming.headers.get("et-app-key") != self._settings.app_key:
            return Ruling(status=self._settings.app_key_status, reply=shapes.WRONG_APP_KEY)
        if route == "unknown":
            known = incoming.path in PATHS
            return Ruling(
                status=WRONG_VERB if known else NOT_FOUND,
                reply=shapes.WRONG_VERB if known else shapes.NOT_FOUND,
            )
        try:
            return self._rulings[route](incoming)
        except Invalid as invalid:
            return Ruling(status=BAD_REQUEST, reply=shapes.invalid(invalid.fields))
        except WrongAnswer:
            return Ruling(status=self._settings.refusal_status, reply=shapes.WRONG_ANSWER)
        except Refused as refused:
            reply = shapes.refusal(self._settings, str(refused))
            return Ruling(status=self._settings.refusal_status, reply=reply)

    def _challenge(self, incoming: Incoming) -> Ruling:
        if not self._settings.question_endpoint:
            return Ruling(status=self._settings.question_endpoint_status, reply=shapes.NOT_FOUND)
        name = incoming.parameter("username")
        if not name:
            raise Invalid({"username": ["The field is required."]})
        return Ruling(reply=shapes.model(self._broker.challenge(name)))

    def _request(self, incoming: Incoming) -> Ruling:
        texts = incoming.texts("User", optional=["SecretQuestionAnswer"])
        decision = self._broker.request(texts["User"], texts.get("SecretQuestionAnswer"))
        return _accepted(shapes.requested(self._settings), decision)

    def _exchange(self, incoming: Incoming) -> Ruling:
        if incoming.path != LATER_REVISION:
            decision = self._broker.exchange(incoming.texts("Code")["Code"], RESET_PASSWORD)
            return _accepted(shapes.model(decision.value), decision)
        texts = incoming.texts("Code", "Identifier")
        if texts["Identifier"] not in {RESET_PASSWORD, RESET_PIN}:
            raise Invalid({"Identifier": ["The value is not one of ResetPassword, ResetPinCode."]})
        decision = self._broker.exchange(texts["Code"], texts["Identifier"])
        return _accepted(shapes.token_of_later_revision(decision.value), decision)

    def _update(self, incoming: Incoming) -> Ruling:
        texts = incoming.texts("Token", "Password", "PasswordConfirmation")
        decision = self._broker.update(texts["Token"], texts["Password"], texts["PasswordConfirmation"])
        return _accepted(shapes.UPDATED, decision)

    def _change_pin(self, incoming: Incoming) -> Ruling:
        scheme, _, session = incoming.headers.get("authorization", "").partition(" ")
        allowed = scheme == "Bearer" and self._broker.may_change_pin(session, incoming.text("Token"))
        if self._settings.bearer_checked and not allowed:
            return Ruling(status=UNAUTHORIZED, reply=shapes.UNAUTHORIZED)
        texts = incoming.texts("Token", "Pin", "ImageName", "PersonalPhrase")
        decision = self._broker.change_pin(texts["Token"], texts["Pin"], texts["ImageName"])
        return _accepted(shapes.UPDATED, decision)

    def _images(self, _: Incoming) -> Ruling:
        return Ruling(reply=shapes.model(list(IMAGES)))

    def _log_in(self, incoming: Incoming) -> Ruling:
        name, password = (incoming.headers.get(header, "") for header in ("username", "password"))
        state, token = self._broker.log_in(name, password)
        failed = state is LogInState.FAILED
        status = self._settings.log_in_refusal_status if failed else 200
        return Ruling(status=status, reply=shapes.logged_in(state, token))


def _accepted(reply: Any, decision: Decision) -> Ruling:
    return Ruling(reply=reply, act=decision.act)
