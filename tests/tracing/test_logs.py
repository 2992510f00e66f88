"""The filter redacts records, leaves everything else, and never raises."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import aiohttp
import pytest
from hypothesis import given, settings, strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.secret import HIDDEN, Secret
from reset_flow.observability.log_redaction import RedactingFilter, install

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "v1olet tr4ctor"
LOGIN = "robert.zak"


class Lines(logging.Handler):
    """Keep the records, and the lines of text made of them."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter("%(message)s").format(record))
        self.records.append(record)


class Log:
    """A logger with one handler, which has the filter."""

    def __init__(self) -> None:
        self.handler = Lines(0)
        self.records, self.lines = self.handler.records, self.handler.lines
        self.redacting = RedactingFilter()
        self.handler.addFilter(self.redacting)
        self.logger = logging.getLogger("reset_flow.test.somebody_else")
        self.logger.setLevel(1)
        self.logger.propagate = False
        self.logger.addHandler(self.handler)

    def says(self, message: object, *args: object, **options: Any) -> str:
        self.logger.debug(message, *args, **options)
        return self.lines[-1]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.logger.removeHandler(log.handler)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (
            "GET https://broker.test/api/v1.0/users/password/secret-question?username=robert.zak",
            "GET https://broker.test/api/v1.0/users/password/secret-question?***",
        ),
        (
            '"GET /secret-question?username=robert.zak HTTP/1.1" 200',
            '"GET /secret-question?*** HTTP/1.1" 200',
        ),
        ("URL('https://broker.test/?username=robert.zak&a=b')", "URL('https://broker.test/?***')"),
        ("https://broker.test?robert.zak", "https://broker.test?***"),
        ("postgresql://flows:v1olet@db/flows failed", "postgresql://***@db/flows failed"),
        ("Et-App-Key: v1olet", "Et-App-Key: ***"),
        ("password: v1olet tr4ctor", "password: ***"),
        ("Authorization: Bearer v1olet.tr4ctor\r\nHost: x", "Authorization: ***\r\nHost: x"),
        (r"b'POST / HTTP/1.1\r\nUsername: robert.zak\r\nHost: x'", r"b'POST / HTTP/1.1\r\nUsername: ***\r\nHost: x'"),
        ("got a bearer v1olet.tr4ctor today", "got a bearer *** today"),
        ("{'Password': 'v1olet tr4ctor', 'Host': 'x'}", "{'Password': ***, 'Host': 'x'}"),
        ("<CIMultiDict('Et-App-Key': 'v1olet')>", "<CIMultiDict('Et-App-Key': ***)>"),
        ("(b'Authorization', b'Bearer v1olet'), (b'A', b'c')", "(b'Authorization', ***), (b'A', b'c')"),
        ("Case(user='robert.zak', credential='password')", "Case(user=***, credential='password')"),
        ("code=231408&identifier=ResetPassword", "code=***&identifier=ResetPassword"),
        ('{"Code": 231408, "Identifier": "x"}', '{"Code": ***, "Identifier": "x"}'),
        ('{"Password": ["v1olet", "tr4ctor"]}', '{"Password": ***}'),
        ('{"Token": {"a": "v1olet"}}', '{"Token": ***}'),
        (r'{"Pin": "a\"v1olet", "b": 1}', '{"Pin": ***, "b": 1}'),
        (r'"{\"Code\": \"v1olet\", \"b\": \"c\"}"', r'"{\"Code\": ***, \"b\": \"c\"}"'),
        ('{"PasswordConfirmation": "v1olet tr4c', '{"PasswordConfirmation": ***'),
    ],
)
def test_what_is_known_to_be_secret_is_taken_out(log: Log, said: str, left: str) -> None:
    assert log.says(said) == left
    assert log.says("%s", said) == left


@pytest.mark.parametrize(
    "key",
    [
        "SecretQuestionAnswer",
        "Code",
        "Token",
        "Password",
        "PasswordConfirmation",
        "Pin",
        "PersonalPhrase",
        "User",
        "Username",
        "Model",
        "password",
    ],
)
@pytest.mark.parametrize("value", [SECRET, 'q "b" \\', "q7\\", "231408", "{'x': 'y'}", "q\nv"])
def test_the_value_of_a_key_is_taken_out_however_it_is_written(log: Log, key: str, value: str) -> None:
    document = {"a": "left", key: value, "z": "left"}
    for text in (json.dumps(document), json.dumps(document, indent=2), json.dumps(json.dumps(document))):
        assert value not in log.says(text)
        assert json.dumps(value)[1:-1] not in log.says(f"body: {text}")
        assert "left" in log.lines[-1]
    assert value not in log.says(document)
    assert value not in log.says("%r", json.dumps(document).encode())


@pytest.mark.parametrize(
    "said",
    [
        "flow 0123456789abcdefghijklmnop: the store does not take an outcome, trying again",
        '{"IsSucceed": true, "StatusCode": 409, "ErrorsCode": ["ErrorIncorrectAnswer"]}',
        "Executing <Task finished name='Task-2' coro=<command() done>> took 0.121 seconds",
        "Initiating transition from state requested to state question_answered...",
        "is that so? yes",
        "the password was set",
        "status_code=409",
        "",
    ],
)
def test_everything_else_is_left(log: Log, said: str) -> None:
    assert log.says(said) == said
    assert log.says("%s, %d", said, 1) == f"{said}, 1"
    assert log.records[-1].args == (said, 1), "a tool can still group by messages"


def test_what_the_arguments_show_is_taken_out_of_them(log: Log) -> None:
    assert log.says("sent %s", {"Password": SECRET}) == "sent {'Password': ***}"
    assert log.records[-1].args == ()
    assert log.says("sent %(path)s", {"path": "/token", "Password": SECRET}) == "sent /token"
    assert SECRET not in repr(vars(log.records[-1]))
    assert log.says("%s", CIMultiDict({"Password": SECRET})) == "<CIMultiDict('Password': ***)>"
    assert log.says("%s", URL("https://broker.test/a?username=x")) == "https://broker.test/a?***"
    assert log.says("%s", Secret(SECRET)) == "<secret>"


def test_exceptions_and_stacks_are_redacted(log: Log) -> None:
    log.redacting.hide(SECRET)
    headers = CIMultiDictProxy(CIMultiDict({"Password": "tr4ctor"}))
    request = aiohttp.RequestInfo(URL(f"https://broker.test/?username={LOGIN}"), "POST", headers, URL())

    def fail(error: Exception) -> None:
        raise ValueError(repr(error)) from error

    try:
        fail(aiohttp.ClientResponseError(request, (), message=SECRET))
    except ValueError:
        log.says("it failed", exc_info=True, stack_info=True)
    for secret in (SECRET, LOGIN, "tr4ctor"):
        assert secret not in log.lines[-1]
        assert secret not in repr(vars(log.records[-1]))
    assert "ValueError" in log.lines[-1]
    assert "Traceback" in log.lines[-1]
    assert "Stack (most recent call last)" in log.lines[-1]
    assert log.records[-1].exc_info is None, "its frames would show their variables"


def test_an_exception_that_is_text_already_is_redacted(log: Log) -> None:
    record = logging.LogRecord("a", 10, "b", 1, "c", (), None)
    record.exc_text = f"Password: {SECRET}"
    log.logger.handle(record)
    assert log.lines[-1] == "c\nPassword: ***"
    log.says("nothing is raised", exc_info=(None, None, None))
    assert log.lines[-1] == "nothing is raised"


def test_what_comes_as_extra_is_redacted(log: Log) -> None:
    extra = {
        "first_request_line": f"GET /a?username={LOGIN} HTTP/1.1",
        "request_header": {"Password": SECRET},
        "password": SECRET,
        "status": 200,
        "nothing": None,
        "path": "/a",
    }
    log.says("a", extra=extra)
    shown = vars(log.records[-1])
    assert LOGIN not in repr(shown)
    assert SECRET not in repr(shown)
    assert (shown["status"], shown["nothing"], shown["path"]) == (200, None, "/a")
    assert extra["request_header"] == {"Password": SECRET}, "the argument itself is left as it is"


def test_what_is_registered_is_taken_out_wherever_it_stands(log: Log) -> None:
    secret = 'p\u00e4ss/w "\u4e2d" \\'
    log.redacting.hide(Secret(secret))
    log.redacting.hide(secret)
    for text in (
        secret,
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        repr(secret),
        repr(secret.encode()),
        quote(secret, safe=""),
        quote_plus(secret),
    ):
        said = log.says("before %s after", text)
        assert said.startswith("before ")
        assert said.endswith(" after")
        assert "\u4e2d" not in said
        assert "ss/w" not in said
    assert secret not in repr(vars(log.redacting))
    log.redacting.forget(secret)
    assert log.says(secret) == secret


def test_a_short_one_is_hidden_where_it_stands_alone(log: Log) -> None:
    log.redacting.hide("pw")
    log.redacting.hide("")
    assert log.says("pw: a pwned 'pw'") == "***: a pwned '***'"


def test_what_can_not_be_redacted_is_left_out(log: Log) -> None:
    class Loud:
        def __str__(self) -> str:
            raise RuntimeError(SECRET)

        __repr__ = __str__

    for message, args, options in (
        (Loud(), (), {}),
        ("%s", (Loud(),), {}),
        ("%d %d", (SECRET,), {}),
        ("a", (), {"extra": {"loud": Loud()}, "exc_info": ValueError(SECRET)}),
    ):
        said = log.says(message, *args, **options)
        assert said.startswith("a record that could not be redacted was left out (")
        record = log.records[-1]
        assert not record.args
        assert record.exc_info is None
        assert SECRET not in repr(vars(record))


def test_no_record_is_held_back() -> None:
    record = logging.LogRecord("a", 10, "b", 1, None, None, None)
    assert RedactingFilter().filter(record) is True
    del record.msg
    assert RedactingFilter().filter(record) is True


@given(st.text(alphabet=st.sampled_from("\"'\\{}[]:,=?&; \r\nPasswordCe:/@b1")), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_text_is_taken_and_what_is_registered_is_gone(text: str, registered: bool) -> None:  # noqa: FBT001
    redacting = RedactingFilter()
    if registered:
        redacting.hide(SECRET)
    left = redacting.redact(f"{text}{SECRET}")
    assert not registered or SECRET not in left
    assert redacting.redact(left).count(HIDDEN) >= min(1, left.count(HIDDEN))


@pytest.mark.parametrize(
    "piece", ["\\", '"', "?", "a://", "://", "a?", '"Code"', '"Code": ', "Password", "Password: ", "code=", "[", "\\r"]
)
def test_a_long_message_takes_no_longer_than_it_must(log: Log, piece: str) -> None:
    text = piece * (200_000 // len(piece))
    began = time.perf_counter()
    log.redacting.redact(text)
    assert time.perf_counter() - began < 30  # one that looks again from each place takes many minutes


@pytest.fixture
def handlers() -> Iterator[list[logging.Handler]]:
    """Add a handler to the root logger, and one to a logger below."""
    made = [logging.NullHandler(), logging.NullHandler()]
    loggers = [logging.getLogger(), logging.getLogger("reset_flow.test.logs")]
    for logger, handler in zip(loggers, made, strict=True):
        logger.addHandler(handler)
    yield list(made)
    for logger, handler in zip(loggers, made, strict=True):
        logger.removeHandler(handler)


def test_it_is_installed_on_all_handlers(handlers: list[logging.Handler]) -> None:
    everywhere = logging.getLogger().handlers
    before = {handler: list(handler.filters) for handler in everywhere}
    try:
        redacting = install()
        assert all(redacting in handler.filters for handler in (*handlers, *everywhere))
        assert install() is redacting
        assert [handler.filters.count(redacting) for handler in handlers] == [1, 1]
    finally:
        for handler, filters in before.items():
            handler.filters = filters


def test_it_is_installed_on_chosen_handlers(handlers: list[logging.Handler]) -> None:
    first, second = handlers
    redacting = install(first)
    assert (first.filters, second.filters) == ([redacting], [])
    assert install(first, second) is redacting, "its holder can hide more"
    assert second.filters == [redacting]


def test_without_a_handler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root.manager, "loggerDict", {})
    with pytest.raises(ConfigurationError, match="no logger has a handler"):
        install()


def test_records_of_every_logger_are_redacted(log: Log) -> None:
    root = logging.getLogger()
    root.addHandler(log.handler)
    try:
        logging.getLogger("aiohttp.access").warning("GET /a?username=%s HTTP/1.1", LOGIN)
    finally:
        root.removeHandler(log.handler)
    assert log.lines == ["GET /a?*** HTTP/1.1"]
