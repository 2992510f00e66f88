"""The commands that are about keys: ids and ages, never bytes. They need no broker."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import typer

from reset_flow.cli.exits import STATUSES
from reset_flow.cli.options import PANEL, placed
from reset_flow.cli.screen import clock_time, complain, say, say_json, span
from reset_flow.cli.session import Place
from reset_flow.config import open_store
from reset_flow.domain.errors import ConfigurationError, RecordUnreadable
from reset_flow.domain.policy import Policy
from reset_flow.observability.tracing import NullTracer
from reset_flow.persistence import key_rotation
from reset_flow.persistence.key_file import DELAY, Key
from reset_flow.persistence.key_rotation import ResealReport
from reset_flow.persistence.keyring import Keyring
from reset_flow.persistence.repository import FlowRepository
from reset_flow.ports import Store

__all__ = ["keys_app"]

T = TypeVar("T")

COLUMNS = "{:<8}  {:<19}  {:>8}  {:>7}  {}"
AT_ONCE = "Do not wait for workers that have not read the file: what they save meanwhile may be lost to the others."

keys_app = typer.Typer(help="Key files: making, rotating, showing them.", no_args_is_help=False)

KeyFile = Annotated[Path, typer.Argument(metavar="PATH", help="The key file.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON instead.")]
Realms = Annotated[
    list[str] | None,
    typer.Option(
        "--realm",
        metavar="NAME",
        rich_help_panel=PANEL,
        help="RESET_FLOW_REALM; repeatedly, for all realms that use these keys",
    ),
]


@keys_app.command("new")
def new(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file that does not exist yet.")],
    *,
    as_json: Json = False,
) -> None:
    """Make a key file, for its owner alone. An existing one is never overwritten: flows are sealed with it."""
    ring = Keyring.generate()
    ring.to_file(path)
    if as_json:
        say_json({"path": str(path), **_document(ring.writes)})
    else:
        say(f"{path} is made: keep a copy of it in a safe place, and set RESET_FLOW_KEYS to it")


@keys_app.command("rotate")
def rotate(
    path: KeyFile,
    *,
    at_once: Annotated[bool, typer.Option("--at-once", help="Write with it now, whoever has not read it yet.")] = False,
    as_json: Json = False,
) -> None:
    """Add a key. It writes 30 seconds later, when every worker has read it; the others go on reading."""
    key = key_rotation.rotate(path, delay=timedelta(0) if at_once else DELAY)
    if as_json:
        say_json({"path": str(path), **_document(key)})
    else:
        when = f"from {clock_time(key.writes_from)} on" if key.writes_from else "from now on"
        say(f"key {key.id} writes {when}: then run `reset-flow keys reseal`, and `keys remove` for the old ones")


@keys_app.command("reseal")
@placed("store", "keys")
def reseal(*, place: Place, realm: Realms = None, as_json: Json = False) -> None:
    """Save every flow of the realm again that is not sealed with the key that writes. Workers may go on meanwhile."""
    keyring = Keyring.from_file(place.setting("KEYS", "reset-flow.keys"))

    async def go(store: Store) -> ResealReport:
        total = Counter[str]()
        for name in _realms(place, realm):
            repository = FlowRepository(store, keyring, name, Policy().lease, NullTracer())
            report = await key_rotation.reseal(repository, store, keyring, name)
            total.update(resealed=report.resealed, waiting=report.waiting, unreadable=report.unreadable)
        return ResealReport(**total)

    report = _with(_store(place), go)
    if as_json:
        counts = {"resealed": report.resealed, "waiting": report.waiting, "unreadable": report.unreadable}
        say_json({"key": keyring.writes.id, **counts})
    else:
        say(f"flows sealed anew with key {keyring.writes.id}: {report.resealed}")
        if report.waiting:
            say(f"flows in the middle of a call: {report.waiting}; run this again when workers are done with them")
        for key in keyring.keys:
            if key.writes_from and not key.may_write(datetime.now(UTC)):
                say(f"key {key.id} writes from {clock_time(key.writes_from)} on: run this again then")
    if report.unreadable:
        complain(
            f"records that can't be read, and are left as they are: {report.unreadable}; `reset-flow list` names them"
        )
        raise typer.Exit(STATUSES[RecordUnreadable])


@keys_app.command("remove")
@placed("store")
def remove(
    *,
    place: Place,
    path: KeyFile,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key, by the id that `keys show` prints.")],
    realm: Realms = None,
    at_once: Annotated[bool, typer.Option("--at-once", help=AT_ONCE)] = False,
    as_json: Json = False,
) -> None:
    """Take a key out of the file that writes no more and that no flow is sealed with any more."""
    if not place.setting("STORE", ""):
        raise ConfigurationError("RESET_FLOW_STORE is not set: without it, nobody knows what the key still seals")
    settled = timedelta(0) if at_once else DELAY

    async def go(store: Store) -> None:
        await key_rotation.remove(path, key_id, store, _realms(place, realm), settled=settled)

    _with(_store(place), go)
    if as_json:
        say_json({"path": str(path), "removed": key_id})
    else:
        say(f"key {key_id} is removed: copies of the file still have it")


@keys_app.command("show")
@placed("store")
def show(*, place: Place, path: KeyFile, realm: Realms = None, as_json: Json = False) -> None:
    """List the keys by id and age, and which one writes; where a store is set, also how many flows each seals."""
    keyring = Keyring.from_file(path)
    flows: Counter[str] | None = None
    if place.setting("STORE", ""):

        async def go(store: Store) -> Counter[str]:
            counted = Counter[str]()
            for name in _realms(place, realm):
                counted += await key_rotation.sealed_with(store, name)
            return counted

        flows = _with(_store(place), go)
    unknown = {} if flows is None else {key: flows[key] for key in flows.keys() - {key.id for key in keyring.keys}}
    if not as_json:
        _draw(keyring, flows, unknown)
        return
    rows = [
        _document(key) | {"writes": key == keyring.writes, "flows": None if flows is None else flows[key.id]}
        for key in keyring.keys
    ]
    lookup = [{"id": key.id, "created_at": key.created_at.isoformat()} for key in keyring.lookup_keys]
    say_json({"path": str(path), "keys": rows, "lookup": lookup, "unknown": unknown})


def _draw(keyring: Keyring, flows: Counter[str] | None, unknown: dict[str, int]) -> None:
    now = datetime.now(UTC)

    def line(key: Key, sealed: int | None, does: str) -> None:
        created = f"{key.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
        count = "-" if sealed is None else sealed
        say(COLUMNS.format(key.id, created, span(now - key.created_at), count, does))

    say(COLUMNS.format("ID", "CREATED", "AGE", "FLOWS", "DOES"))
    for key in keyring.keys:
        does = "reads"
        if key == keyring.writes:
            does = "writes"
        elif key.writes_from and not key.may_write(now):
            does = f"writes from {clock_time(key.writes_from, now)} on"
        line(key, None if flows is None else flows[key.id], does)
    for key in keyring.lookup_keys:
        line(key, None, "finds")
    for key_id, count in sorted(unknown.items()):
        say(COLUMNS.format(key_id or "none", "-", "-", count, "is not in this file: these flows can't be read"))


def _document(key: Key) -> dict[str, Any]:
    writes_from = key.writes_from.isoformat() if key.writes_from else None
    return {"id": key.id, "created_at": key.created_at.isoformat(), "writes_from": writes_from}


def _realms(place: Place, given: list[str] | None) -> list[str]:
    return list(dict.fromkeys(given or [place.setting("REALM", "default")]))


def _store(place: Place) -> Store:
    """The store, which must be there already: a new one would say that no key is needed."""
    address = place.store
    path = Path(unquote(address.removeprefix("sqlite:///")))
    if address.startswith("sqlite:///") and not path.exists():
        raise ConfigurationError(f"there is no database at {path}: check RESET_FLOW_STORE")
    return open_store(address)


def _with(store: Store, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    async def go() -> T:
        try:
            return await work(store)
        finally:
            await store.aclose()

    return asyncio.run(go())
