"""
The API of AutoShares Trader, which is ETNA Trader under another name: routes, bodies, envelopes.

A reply becomes an outcome by the first row that fits (a body that came in part has no shape and no envelope to miss):

=====================================================================  =============================================
reply                                                                  outcome
=====================================================================  =============================================
any status, `{"error": "Application key ..."}`                         `NotActed`, the app key
429; 503 with a `Retry-After` that can be read                         `NotActed`
3xx and `NEVER_HANDLED`, without the envelope, the body read whole     `NotActed`, the protocol
2xx and 4xx, the envelope or `ModelState`                              by the table below
everything else                                                        `Unknown`; at step 2, which changes nothing,
                                                                       `NotActed`
=====================================================================  =============================================

The envelope is a JSON object, each of its keys there once, that has `IsSucceed` or `Errors` (a log-in's: `State`). The
documents leave the statuses of refusals open, so what it says counts, not the status that it came with. "Words" are the
texts in `Errors`, "codes" those in `ErrorsCode`. `Errors` is a list, or it says nothing: `null`, or no such key.

====  ==================================================================  ==========================================
step  the envelope                                                        outcome
====  ==================================================================  ==========================================
1     `Errors` has words, whatever `IsSucceed` is                         `Rejected`, in these words
1     `Errors` is empty, no codes, whatever `IsSucceed` is                `Accepted` (the documents' own sample of an
                                                                          accepted reply has `IsSucceed: false`)
1     `Errors` says nothing; `IsSucceed` is true, no codes                `Accepted`
1     `Errors` says nothing; `IsSucceed` is false, there are codes        `Rejected`, in the codes
2     `IsSucceed` is true, no words, a text as `Model`                    `Accepted`, the question; `""`: none is needed
2     `IsSucceed` is true, no words, `Model` is null, missing or blank    `Accepted`, not saying whether there is one
2     `IsSucceed` is false, no text as `Model`                            `Rejected`, words, else codes, else nothing
3     `IsSucceed` is true, a usable `Model`                               `Accepted`, the token
3     `IsSucceed` is true without one                                     `Accepted`, no token
4     `IsSucceed` is true, no words, no codes                             `Accepted`
3, 4  `IsSucceed` is false                                                `Rejected`, words, else codes, else nothing
any   no envelope, but `ModelState`                                       `Rejected`, its texts, else `Message`
any   anything else: yes and no at once, a wrong type, `"true"` or 1      `Unknown`
====  ==================================================================  ==========================================

At step 3 words beside `IsSucceed: true` are no contradiction: the documents' sample of an accepted reply has them.
"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import quote

import msgspec
from yarl import URL

from reset_flow.errors import ConfigurationError
from reset_flow.models import Accepted, Cause, Credential, NotActed, Rejected, Secret, Unknown, one_line, plain
from reset_flow.passwords import canonical
from reset_flow.transports.http import Reply, Sender, carried, endpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

    from aiohttp import ClientSession

    from reset_flow.models import NewCredential, Outcome
    from reset_flow.ports import Case
    from reset_flow.transports.http import Result

__all__ = ["EtnaTransport"]

Document: TypeAlias = dict[str, Any]
No: TypeAlias = list[str]
"""A refusal, in the broker's words as they came."""

Revision: TypeAlias = Literal["identifiers", "password"]
"""Which of the two revisions of the broker's documents step 3 follows."""

NEVER_HANDLED = frozenset({401, 403, 404, 405, 406, 411, 413, 414, 415})
"""Statuses with which something in front of the API turns a request away."""

IDENTIFIERS = {Credential.PASSWORD: "ResetPassword", Credential.PIN: "ResetPinCode"}
PIN_METHODS = frozenset({"GET", "PATCH", "POST", "PUT"})
ENVELOPE, LOG_IN = frozenset({"IsSucceed", "Errors"}), frozenset({"State"})
QUESTION_LENGTH = 1000
USABLE_TOKEN = re.compile(r"[!-~]{1,4096}")
TOO_MANY, UNAVAILABLE, REDIRECTED, FAILED = 429, 503, 3, 5  # the last two are first digits

SHORT = 4
"""Characters; a shorter secret is hidden only where it stands alone, or nothing would be left of the sentence."""

HIDDEN = "***"
DONE = Accepted()
UNSENDABLE = NotActed(cause=Cause.PROTOCOL, detail="it has characters that the request can't carry")
SILENT: tuple[list[str], None] = ([], None)
BETWEEN_WORDS = re.compile(r"(\W+)")


def _once(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key twice: nobody can say which of them counts")
    return document


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


DECODE = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number).decode

ORDINARY = 1000
"""Bytes of a body in which no number is too large, and nothing too deep, for either of two decoders."""


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
        outcome = _judged(result, _question, (case.user,))
        if isinstance(outcome, NotActed) and isinstance(result, Reply) and outcome.cause is Cause.PROTOCOL:
            return Accepted(value=None) if result.status in (404, 405) else outcome
        if isinstance(outcome, Unknown):
            strange = isinstance(result, Reply) and result.body is not None and result.status // 100 != FAILED
            return NotActed(cause=Cause.PROTOCOL if strange else Cause.UNAVAILABLE, detail=outcome.detail)
        return outcome

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        """Step 1."""
        body = {"User": plain(case.user)}
        if answer is not None:
            body["SecretQuestionAnswer"] = answer.reveal()
        return await self._sent("POST", self._request_url, body, _code_sent, case.user, answer)

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        """Step 3. The code goes out as the text that it is given as."""
        if case.credential not in self.credentials:
            return NotActed(cause=Cause.PROTOCOL, detail="this revision of the API can't reset it")
        body = {"Code": code.reveal()}
        if self._revision == "identifiers":
            body["Identifier"] = IDENTIFIERS[case.credential]
        return await self._sent("POST", self._exchange_url, body, _token, case.user, code)

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        """Step 4, or the change of the PIN."""
        secrets = (case.user, token, new.secret, new.personal_phrase, new.authorization)
        if case.credential is Credential.PASSWORD:
            body = {
                "Token": token.reveal(),
                "Password": new.secret.reveal(),
                "PasswordConfirmation": new.secret.reveal(),
            }
            return await self._sent("PUT", self._password_url, body, _done, *secrets)

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
        return await self._sent(self._pin_method, self._pin_url, body, _done, *secrets, authorization=headers)

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
        return _judged(result, _logged_in, (case.user, password), LOG_IN)

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
        return _judged(await self._sender.send(method, url, content, authorization), read, secrets)


def _standing(app_key: Secret) -> dict[str, str]:
    """The headers of every request."""
    return {"Et-App-Key": app_key.reveal(), "Accept": "application/json", "Accept-Encoding": "identity"}


def _judged(
    result: Result,
    read: Callable[[Document], Accepted | No | None],
    secrets: tuple[str | Secret | None, ...],
    envelope: frozenset[str] = ENVELOPE,
) -> Outcome:
    """What a reply means, by the tables above. `read` says what an envelope means: yes, no, or nothing known."""
    if not isinstance(result, Reply):
        return result
    document = None if result.body is None else _document(result.body)
    enveloped = document is not None and not envelope.isdisjoint(document)
    turned_away = _turned_away(result, None if enveloped else document, enveloped=enveloped)
    if turned_away is not None:
        return turned_away
    said: Accepted | No | None = None
    if document is not None and result.status // 100 in (2, 4):
        said = read(document) if enveloped else _invalid(document)
    if isinstance(said, Accepted):
        return said
    if said is not None:
        return Rejected(reasons=_hidden(said, secrets))
    return Unknown(detail=f"HTTP {result.status}, {result.flaw or 'and nothing known to mean yes or no'}")


def _turned_away(reply: Reply, document: Document | None, *, enveloped: bool) -> NotActed | None:
    """The first three rows."""
    status, error = reply.status, document and document.get("error")
    if isinstance(error, str) and error.strip().lower().startswith("application key"):
        return NotActed(cause=Cause.APP_KEY, detail="the broker does not know the app key")
    if status == TOO_MANY or (status == UNAVAILABLE and reply.retry_after is not None):
        return NotActed(detail=f"HTTP {status}", retry_after=reply.retry_after)
    if not enveloped and reply.body is not None and (status in NEVER_HANDLED or status // 100 == REDIRECTED):
        return NotActed(cause=Cause.PROTOCOL, detail=f"HTTP {status}")
    return None


def _code_sent(document: Document) -> Accepted | No | None:
    errors, words, codes = _complaints(document)
    succeeded = document.get("IsSucceed")
    if words:
        return words
    if codes:
        return codes if errors is None and succeeded is False else None
    return DONE if errors == [] or (errors is None and succeeded is True) else None


def _question(document: Document) -> Accepted | No | None:
    errors, words, codes = _complaints(document)
    model, succeeded = document.get("Model"), document.get("IsSucceed")
    if succeeded is False and not (isinstance(model, str) and model):
        return _no(errors, words, codes)
    if succeeded is not True or errors not in SILENT or not (model is None or isinstance(model, str)):
        return None
    question = one_line((model or "")[: 2 * QUESTION_LENGTH])[:QUESTION_LENGTH]  # fit for a page: no wall of text
    return Accepted(value=Secret(question) if question or model == "" else None)


def _token(document: Document) -> Accepted | No | None:
    errors, words, codes = _complaints(document)
    model, succeeded = document.get("Model"), document.get("IsSucceed")
    if succeeded is not True or not (errors is None or isinstance(errors, list)):
        return _no(errors, words, codes) if succeeded is False else None
    usable = isinstance(model, str) and USABLE_TOKEN.fullmatch(model)
    return Accepted(value=Secret(str(model)) if usable else None)


def _done(document: Document) -> Accepted | No | None:
    errors, words, codes = _complaints(document)
    succeeded = document.get("IsSucceed")
    if succeeded is True:
        return DONE if errors in SILENT and not codes else None
    return _no(errors, words, codes) if succeeded is False else None


def _no(errors: Any, words: No, codes: No) -> No | None:
    """An `IsSucceed: false`, unless its `Errors` are nothing that is known."""
    return words or codes if isinstance(errors, list | None) else None


def _logged_in(document: Document) -> Accepted | No | None:
    state, reason = document["State"], document.get("Reason")
    if state == "Succeeded" or (state == "Expecting" and document.get("Step") == "VerificationCode"):
        return DONE
    return _texts([reason]) if state == "Failed" else None


def _invalid(document: Document) -> No | None:
    """The texts of a `ModelState`, `None` where there is none."""
    fields = document.get("ModelState")
    if not isinstance(fields, dict):
        return None
    texts = [text for field in fields.values() for text in _texts(field if isinstance(field, list) else [field])]
    return texts or _texts([document.get("Message")])


def _complaints(document: Document) -> tuple[Any, No, No]:
    """`Errors` as it came, the words in it, and the codes beside it."""
    errors, codes = document.get("Errors"), document.get("ErrorsCode")
    if not (codes is None or isinstance(codes, list)):
        codes = ["codes in no known form"]  # whatever they say, it is not nothing
    return errors, _texts(errors), _texts(codes)


def _texts(said: Any) -> list[str]:
    return [text for text in said if isinstance(text, str) and text.strip()] if said and isinstance(said, list) else []


def _document(body: bytes) -> Document | None:
    """The JSON object in the body, whatever type it came under; `None` if it is no object, or not quite JSON."""
    if len(body) < ORDINARY:
        try:
            known = msgspec.json.decode(body)
        except (ValueError, RecursionError):
            known = None  # some of these can be read below
        if isinstance(known, dict) and body.count(b":") == len(known):  # a key that came twice has two of them
            return known
    try:
        document = DECODE(body.decode("utf-8-sig"))  # .NET likes to write a byte order mark
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _hidden(words: No, secrets: tuple[str | Secret | None, ...]) -> No:
    """The words without what they repeat of ours: they go into errors, and those into logs."""
    for spelled in (str, one_line):  # as it was sent, and as it will be printed
        words = [spelled(word) for word in words]
        for secret in secrets:
            text = spelled(secret.reveal() if isinstance(secret, Secret) else secret or "")
            if text:
                words = [_without(text, word) for word in words]
    return words


def _without(text: str, sentence: str) -> str:
    # No pattern is made of the secret: `re` keeps those that it has seen.
    if len(text) < SHORT:
        return "".join(HIDDEN if part.lower() == text.lower() else part for part in BETWEEN_WORDS.split(sentence))
    sentence = sentence.replace(text, HIDDEN)
    return HIDDEN if text.lower() in sentence.lower() else sentence
