"""The commands on keys: ids and ages, never bytes. They need no broker."""

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

from reset_flow import Keyring, ResealReport
from reset_flow.admin import Key, rotate_keys
from reset_flow.cli.admin import tell_unreadable
from reset_flow.cli.options import PANEL, Json, with_settings
from reset_flow.cli.screen import clock_time, counting, say, say_json, span
from reset_flow.cli.session import AdminSession, Settings
from reset_flow.config import shared_files
from reset_flow.domain.errors import ConfigurationError, InvalidInput

__all__ = ["keys_app"]

COLUMNS = "{:<8}  {:<19}  {:>8}  {:>7}  {}"
ID = re.compile("[0-9a-f]{8}")
AT_ONCE = "Do not wait for workers that have not read the file: what they save meanwhile may be lost to the others."

keys_app = typer.Typer(help="Key files: making, rotating, showing them.", no_args_is_help=False)

KeyFile = Annotated[
    Path | None, typer.Argument(metavar="PATH", show_default=False, help="The key file, if not that of the settings.")
]
Realms = Annotated[
    list[str] | None,
    typer.Option(
        "--realm",
        metavar="NAME",
        rich_help_panel=PANEL,
        help="RESET_FLOW_REALM; repeatedly, for all realms that use these keys",
    ),
]


def _file(path: Path | None, settings: Settings) -> Path:
    return path or Path(settings.keys)


@keys_app.command("new")
@with_settings("keys")
def new(*, settings: Settings, path: KeyFile = None, as_json: Json = False) -> None:
    """Make a key file, for its owner alone. An existing one is never overwritten: flows are sealed with it."""
    path = _file(path, settings)
    ring = Keyring.generate()
    ring.to_file(path, shared=shared_files())
    if as_json:
        say_json({"path": str(path), **_document(ring.writes)})
    else:
        say(f"{path} is made: keep a copy of it in a safe place, and set RESET_FLOW_KEYS to it")


@keys_app.command("rotate")
@with_settings("keys")
def rotate(
    *,
    settings: Settings,
    path: KeyFile = None,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Write with it now, before every worker has read it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add a key. It writes a little later, when every worker has read it; the others go on reading."""
    path = _file(path, settings)
    key = rotate_keys(path, at_once=at_once, shared=shared_files())
    if as_json:
        say_json({"path": str(path), **_document(key)})
    else:
        when = f"from {clock_time(key.writes_from)} on" if key.writes_from else "from now on"
        say(f"key {key.id} writes {when}: then run `reset-flow keys reseal`, and `keys remove` for the old ones")


@keys_app.command("reseal")
@with_settings("store", "keys")
def reseal(*, settings: Settings, realm: Realms = None, as_json: Json = False) -> None:
    """Seal every record of the realm again that is not sealed with the key that writes. Workers may go on meanwhile."""
    keyring = Keyring.from_file(settings.keys, shared=shared_files())
    total = Counter[str]()
    with AdminSession(settings, keyring, realm) as session, counting("looked at") as progress:
        for admin in session.admins:
            total.update(attrs.asdict(session.run(admin.reseal(progress=progress))))
    _tell_reseal(keyring, ResealReport(**total), as_json=as_json)


def _tell_reseal(keyring: Keyring, report: ResealReport, *, as_json: bool) -> None:
    if as_json:
        say_json({"key": keyring.writes.id, **attrs.asdict(report)})
    else:
        say(f"records sealed anew with key {keyring.writes.id}: {report.resealed}")
        if report.waiting:
            say(f"flows in the middle of a call: {report.waiting}; run this again when workers are done with them")
        for key in keyring.keys:
            if key.writes_from and not key.may_write(datetime.now(UTC)):
                say(f"key {key.id} writes from {clock_time(key.writes_from)} on: run this again then")
    tell_unreadable(report.unreadable)


@keys_app.command("remove")
@with_settings("store", "keys")
def remove(
    *,
    settings: Settings,
    path_and_id: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="The key, by the id that `keys show` prints; before it, PATH may stand."),
    ],
    realm: Realms = None,
    at_once: Annotated[bool, typer.Option("--at-once", help=AT_ONCE)] = False,
    as_json: Json = False,
) -> None:
    """Remove a key that writes no more and seals no record any more."""
    *paths, wanted = path_and_id
    if len(paths) > 1 or not ID.fullmatch(wanted):
        raise InvalidInput("a key has an id of 8 hexadecimal digits, as `reset-flow keys show` prints it")
    path = _file(Path(paths[0]) if paths else None, settings)
    if not settings.get("STORE", ""):
        raise ConfigurationError("RESET_FLOW_STORE is not set: without it, nobody knows what the key still seals")
    with AdminSession(settings, Keyring.from_file(path, shared=shared_files()), realm) as session:
        session.run(session.admin.remove_key(path, wanted, realms=realm or (), at_once=at_once))
    if as_json:
        say_json({"path": str(path), "removed": wanted})
    else:
        say(f"key {wanted} is removed: copies of the file still have it")


@keys_app.command("show")
@with_settings("store", "keys")
def show(*, settings: Settings, path: KeyFile = None, realm: Realms = None, as_json: Json = False) -> None:
    """List the keys by id and age, and which one writes; where a store is set, also how many records each seals."""
    path = _file(path, settings)
    keyring = Keyring.from_file(path, shared=shared_files())
    records: Counter[str] | None = None
    if settings.get("STORE", ""):
        with AdminSession(settings, keyring, realm) as session:
            records = sum((session.run(admin.sealed_with()) for admin in session.admins), Counter[str]())
    known = {key.id for key in keyring.keys}
    unknown = {key_id: count for key_id, count in (records or {}).items() if key_id not in known}
    if not as_json:
        _draw(keyring, records, unknown)
        return
    rows = [
        _document(key) | {"writes": key == keyring.writes, "records": None if records is None else records[key.id]}
        for key in keyring.keys
    ]
    lookup = [{"id": key.id, "created_at": key.created_at.isoformat()} for key in keyring.lookup_keys]
    say_json({"path": str(path), "keys": rows, "lookup": lookup, "unknown": unknown})


def _draw(keyring: Keyring, records: Counter[str] | None, unknown: dict[str, int]) -> None:
    now = datetime.now(UTC)

    def line(key: Key, sealed: int | None, does: str) -> None:
        created = f"{key.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
        count = "-" if sealed is None else sealed
        say(COLUMNS.format(key.id, created, span(now - key.created_at), count, does))

    say(COLUMNS.format("ID", "CREATED", "AGE", "RECORDS", "DOES"))
    for key in keyring.keys:
        does = "reads"
        if key == keyring.writes:
            does = "writes"
        elif key.writes_from and not key.may_write(now):
            does = f"writes from {clock_time(key.writes_from, now)} on"
        line(key, None if records is None else records[key.id], does)
    for key in keyring.lookup_keys:
        line(key, None, "finds")
    for key_id, count in sorted(unknown.items()):
        say(COLUMNS.format(key_id or "none", "-", "-", count, "not in this file: unreadable"))


def _document(key: Key) -> dict[str, Any]:
    writes_from = key.writes_from.isoformat() if key.writes_from else None
    return {"id": key.id, "created_at": key.created_at.isoformat(), "writes_from": writes_from}
