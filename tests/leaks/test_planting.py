"""What is planted in a kind of place is found there: one of each canary, in each spelling that the place can hold."""

from __future__ import annotations

import asyncio
import json
import logging
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

import reset_flow
from reset_flow import Credential, Event, Flow, Secret, State, StoreUnavailable, Transition, open_store
from reset_flow.testing import LeakScanner, make_record, shown_by, shown_by_error, traceback_of
from reset_flow.testing.leaks import spellings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.leaks.conftest import Files, Watch

CANARIES: dict[str, str | bytes] = {
    "answer": 'Fluß "9 ½" \\ Hügel',
    "code": "904731",
    "token": "91c4d9b2-1b7c-4f1d-8a57-fedcba987654",
    "password": 'blauer "Kürbis" & 6\\',
    "pin": "5519",
    "app key": "another+key/with=signs==",
    "key bytes": bytes(range(140, 172)),
    "login": "Mária+Ünal/y@exämple.net",
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIBRARY = Path(reset_flow.__file__).parent
OTHERS = Path(sysconfig.get_path("purelib"))
TESTS = Path(__file__).parents[1]


def planted() -> Iterator[tuple[str, str, bytes]]:
    """Each canary in each spelling."""
    for name, canary in CANARIES.items():
        yield from ((name, spelling, spelled) for spelling, spelled in spellings(canary))


def text_of(spelled: bytes, escaped: Callable[[str], str] = str) -> str | None:
    """As a place that escapes texts holds it; `None` where something else becomes of it there."""
    try:
        text = spelled.decode()
    except UnicodeDecodeError:
        return None
    return text if "\0" not in text and escaped(text) == text else None


def a_flow(**given: Any) -> Flow:
    fields = {each.name: None for each in attrs.fields(Flow)}
    known: dict[str, Any] = {
        "state": State.REQUESTED,
        "allowed": (),
        "history": (),
        "created_at": NOW,
        "expires_at": NOW,
    }
    known["credential"] = Credential.PASSWORD
    return Flow(**{**fields, **known, **given})


def broken_in(filename: Path, value: object) -> StoreUnavailable:
    """Return an error that came through a frame of this file, with the value in a variable."""
    names: dict[str, Any] = {"StoreUnavailable": StoreUnavailable}
    exec(compile("def fail(value):\n    raise StoreUnavailable('away')", str(filename), "exec"), names)  # noqa: S102
    try:
        names["fail"](value)
    except StoreUnavailable as error:
        return error
    raise AssertionError


@pytest.fixture
def scanner() -> LeakScanner:
    return LeakScanner(CANARIES)


@pytest.fixture
def fresh(watch: Watch, scanner: LeakScanner) -> Watch:
    """Return a watch over these canaries."""
    watch.scanner = scanner
    return watch


async def names_in(watch: Watch, place: str) -> set[str]:
    return {name for where, name, _ in await watch.leaks(again=True) if where == place}


def test_each_spelling_by_itself_is_found(scanner: LeakScanner) -> None:
    for name, _, spelled in planted():
        assert {leak.name for leak in scanner.find(b"\x00..." + spelled + b"...\xff")} >= {name}


async def test_in_a_store(fresh: Watch, files: Files) -> None:
    store = open_store(fresh.url)
    await store.save(make_record())
    assert await names_in(fresh, "store") == set()
    bodies = [b"\x00\x01" + spelled + b"\xff" for _, _, spelled in planted()]
    records = [make_record(id=f"{number:026}", body=body) for number, body in enumerate(bodies)]
    await asyncio.gather(*map(store.save, records))
    (kept, on_disk) = (await fresh.places())["store"], await files()
    for name, spelling, spelled in planted():
        assert spelled in kept, (name, spelling)
        assert spelled in on_disk, (name, spelling)
    assert await names_in(fresh, "store") == {leak.name for leak in fresh.scanner.find(on_disk)} == set(CANARIES)
    await store.aclose()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
class TestElsewhere:
    """Places that have nothing to do with the store."""

    async def finds(
        self, watch: Watch, place: str, plant: Callable[[str], object], escaped: Callable[[str], str]
    ) -> None:
        """Whether all that the place can hold is found there, and nothing before it was planted."""
        assert await names_in(watch, place) == set()
        there = []
        for name, spelling, spelled in planted():
            text = text_of(spelled, escaped)
            if text is not None:
                plant(text)
                there.append((name, spelling))
        assert {name for name, _ in there} == set(CANARIES)
        scanned = {(leak.name, leak.spelling) for leak in watch.scanner.find((await watch.places(again=True))[place])}
        assert {name for name, _ in scanned} == await names_in(watch, place) == set(CANARIES)
        firsts = {(leak.name, leak.spelling) for name, _, spelled in planted() for leak in watch.scanner.find(spelled)}
        assert {each for each in there if each in firsts} <= scanned

    async def test_in_a_log(self, fresh: Watch) -> None:
        await self.finds(fresh, "log", lambda text: logging.getLogger("of.others").debug("%s", text), str)

    async def test_in_a_record_of_a_log_beside_its_message(self, fresh: Watch) -> None:
        logger = logging.getLogger("of.others")
        await self.finds(fresh, "log", lambda text: logger.debug("no", extra={"given": text}), lambda t: repr(t)[1:-1])

    async def test_in_the_locals_of_a_logged_error(self, fresh: Watch) -> None:
        def plant(text: str) -> None:
            logging.getLogger("of.others").error("no", exc_info=broken_in(OTHERS / "some" / "driver.py", text))

        await self.finds(fresh, "log", plant, lambda text: repr(text)[1:-1])

    @pytest.mark.parametrize("folder", [LIBRARY, OTHERS], ids=["library", "driver"])
    async def test_in_the_locals_of_an_error(self, fresh: Watch, folder: Path) -> None:
        def plant(text: str) -> None:
            fresh.see_error(broken_in(folder / "planted.py", text))

        await self.finds(fresh, "errors", plant, lambda text: repr(text)[1:-1])

    async def test_in_a_span(self, fresh: Watch) -> None:
        tracer = fresh.provider.get_tracer("of.others")

        def plant(text: str) -> None:
            with tracer.start_as_current_span("step") as span:
                span.set_attribute("given", text)

        await self.finds(fresh, "spans", plant, lambda text: json.dumps(text)[1:-1])

    async def test_in_a_repr(self, fresh: Watch) -> None:
        await self.finds(fresh, "values", lambda text: fresh.see(a_flow(id=text)), lambda text: repr(text)[1:-1])

    async def test_in_a_pickle_alone(self, fresh: Watch) -> None:
        class Quiet(str):
            __slots__ = ()

            def __repr__(self) -> str:
                return "<quiet>"

            __str__ = __repr__

            def __format__(self, spec: str) -> str:
                return "<quiet>"

            def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
                return bytes, (self.encode(),)

        await self.finds(fresh, "values", lambda text: fresh.see([Quiet(text)]), lambda text: repr(text)[1:-1])

    async def test_in_an_event(self, fresh: Watch) -> None:
        async def listen(text: str) -> None:
            step = Transition(trigger=text, source=State.REQUESTED, target=State.FAILED, at=NOW)
            await fresh.listen(Event(id="1.0", flow=a_flow(), transition=step))

        def plant(text: str) -> None:
            with pytest.raises(StopIteration):
                listen(text).send(None)

        await self.finds(fresh, "events", plant, lambda text: repr(text)[1:-1])

    async def test_bytes_of_a_key_in_locals_and_values(self, fresh: Watch) -> None:
        fresh.see_error(broken_in(LIBRARY / "planted.py", CANARIES["key bytes"]))
        fresh.see({"key": CANARIES["key bytes"]})
        assert await names_in(fresh, "errors") == await names_in(fresh, "values") == {"key bytes"}


# --- whose frames count


@pytest.mark.parametrize("folder", [LIBRARY, LIBRARY / "testing", OTHERS, Path("/usr/lib"), Path("<frozen x>")])
def test_only_frames_of_those_who_call_are_left_out(scanner: LeakScanner, folder: Path) -> None:
    error = broken_in(folder / "planted.py", CANARIES["password"])
    for callers in ([], [TESTS], [TESTS / "leaks", TESTS / "nowhere"]):
        shown = traceback_of(error, callers=callers)
        assert {leak.name for leak in scanner.find(shown)} == {"password"}
        assert str(folder / "planted.py") in shown
    assert (__file__ in traceback_of(error), __file__ in traceback_of(error, callers=[TESTS])) == (True, False)


def test_frames_of_those_who_call_are_left_out(scanner: LeakScanner) -> None:
    error = broken_in(TESTS / "planted.py", CANARIES["password"])
    assert scanner.find(shown_by_error(error)) != []
    assert scanner.find(shown_by_error(error, callers=[TESTS])) == []


@pytest.mark.parametrize("kind", ["cause", "context", "hidden", "group"])
def test_what_an_error_carries_is_searched_too(scanner: LeakScanner, kind: str) -> None:
    deep = broken_in(LIBRARY / "deep.py", CANARIES["token"])
    error: BaseException = StoreUnavailable("away")
    match kind:
        case "cause":
            error.__cause__ = deep
        case "context":
            error.__context__ = deep
        case "hidden":
            error.__context__, error.__suppress_context__ = deep, True
        case _:
            error = BaseExceptionGroup("both", [error, deep])
    assert {leak.name for leak in scanner.find(shown_by_error(error, callers=[TESTS]))} == {"token"}


def test_messages_notes_and_attributes_are_searched(scanner: LeakScanner) -> None:
    for plant in (
        lambda error, text: setattr(error, "args", (text,)),
        lambda error, text: error.add_note(text),
        lambda error, text: setattr(error, "detail", text),
        lambda error, text: setattr(error, "flow", a_flow(id=text)),
    ):
        error = StoreUnavailable("away")
        assert scanner.find(shown_by_error(error)) == []
        plant(error, CANARIES["answer"])
        assert {leak.name for leak in scanner.find(shown_by_error(error))} == {"answer"}


def test_a_value_that_hides_shows_nothing(scanner: LeakScanner) -> None:
    login, password = CANARIES["login"], CANARIES["password"]
    assert isinstance(login, str)
    assert isinstance(password, str)
    assert scanner.find(shown_by(Secret(password), a_flow(user=login, question="?"), [Secret(login)])) == []
    assert {leak.name for leak in scanner.find(shown_by((login, password)))} == {"login", "password"}
