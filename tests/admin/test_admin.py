"""What an operator does with store and keys alone: look, purge, lift one person's budgets, erase one person."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import pytest

from reset_flow import (
    AnswerRejected,
    Budget,
    CodeRejected,
    CommandRequest,
    CommandVetoed,
    ConfigurationError,
    Failure,
    Flow,
    FlowNotFound,
    InvalidInput,
    Keyring,
    KeyringError,
    LimitReached,
    MemoryStore,
    OutcomeInDoubt,
    PasswordRejected,
    Policy,
    PostgresStore,
    RecordUnreadable,
    RedisStore,
    Rejected,
    ResetService,
    SQLiteStore,
    State,
    StoreUnavailable,
    open_store,
)
from reset_flow.admin import Admin, ChangeReport, Key, rotate_keys
from reset_flow.testing import FrozenClock, LeakScanner, ScriptedTransport, dump, refused, shown_by_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from reset_flow import Record, Store, Use, UseName

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
USER, CODE = "robert.zak", "004158"
SCANNER = LeakScanner({each: each for each in (USER, "maria", "Peterson", "Street?", CODE, "violet tractor")})
TIGHT = Policy(codes_per_user=Budget(3, DAY), starts_per_user=Budget(4, DAY), code_attempts=9)


class Person(Protocol):
    """Brings a new flow of a user to a state."""

    async def __call__(self, state: State, user: str = USER, tags: str | tuple[str, ...] = ()) -> Flow: ...


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def unopened(request: pytest.FixtureRequest, tmp_path: Path, clock: FrozenClock) -> Store:
    match request.param:
        case "sqlite":
            return SQLiteStore(tmp_path / "flows.db", clock=clock)
        case "postgres":
            return PostgresStore(request.getfixturevalue("postgres_url"), clock=clock)
        case "redis":
            return RedisStore(request.getfixturevalue("redis_url"), clock=clock)
        case _:
            return MemoryStore(clock=clock)


@pytest.fixture
async def store(unopened: Store) -> AsyncIterator[Store]:
    yield unopened
    await unopened.aclose()


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring.load_or_create(tmp_path / "keys")


@pytest.fixture
def transport() -> ScriptedTransport:
    return ScriptedTransport()


@pytest.fixture
async def service(
    store: Store, keyring: Keyring, transport: ScriptedTransport, clock: FrozenClock
) -> AsyncIterator[ResetService]:
    service = ResetService(transport, store, keyring, policy=TIGHT, clock=clock, sweep=False)
    yield service
    await service.aclose()


@pytest.fixture
def admin(store: Store, keyring: Keyring, clock: FrozenClock) -> Admin:
    return Admin(store, keyring, clock=clock, worker="desk")


@pytest.fixture
def person(service: ResetService) -> Person:
    async def person(state: State, user: str = USER, tags: str | tuple[str, ...] = ()) -> Flow:
        flow = await service.start(user, tags=tags)
        if state in (State.QUESTION_ANSWERED, State.TOKEN_ISSUED, State.PASSWORD_SET):
            flow = await service.answer(flow.id, "Peterson")
        if state in (State.TOKEN_ISSUED, State.PASSWORD_SET):
            flow = await service.verify(flow.id, CODE)
        if state is State.PASSWORD_SET:
            flow = await service.set_password(flow.id, "violet tractor 5")
        if state is State.FAILED:
            flow = await service.cancel(flow.id)
        assert flow.state is state
        return flow

    return person


@pytest.fixture(autouse=True)
def audit(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, in which no login may stand."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert SCANNER.find(caplog.text) == []


async def listed(admin: Admin, *, tag: str | None = None, running: bool = False) -> list[Flow | RecordUnreadable]:
    return [flow async for flow in admin.flows(tag=tag, running=running)]


# --- looking


async def test_flows_are_listed_all_by_tag_or_running(admin: Admin, person: Person) -> None:
    first = await person(State.FAILED, tags="desk-3")
    second = await person(State.QUESTION_ANSWERED, "maria", tags="desk-3")
    third = await person(State.REQUESTED, "maria")
    assert sorted([first, second, third], key=lambda flow: flow.id) == await listed(admin)
    assert [second, first] == await listed(admin, tag=" DESK-3")
    assert [second] == await listed(admin, tag="desk-3", running=True)
    assert await listed(admin, tag="desk-4") == []
    with pytest.raises(InvalidInput):
        await listed(admin, tag="")


async def test_a_record_that_cannot_be_read_comes_as_the_error(
    admin: Admin, person: Person, store: Store, keyring: Keyring
) -> None:
    flow = await person(State.REQUESTED)
    other = Keyring((Key.generate(),), keyring.lookup_keys)
    foreign = await ResetService(ScriptedTransport(), MemoryStore(), other, sweep=False).start("maria")
    stranger = Admin(store, other)
    (error,) = await listed(stranger)
    assert isinstance(error, RecordUnreadable)
    assert error.flow_id == flow.id
    await refused(stranger.get(flow.id), RecordUnreadable)
    await refused(admin.get(foreign.id), FlowNotFound)


async def test_looking_changes_nothing(
    admin: Admin, service: ResetService, person: Person, transport: ScriptedTransport, clock: FrozenClock
) -> None:
    flow = await person(State.REQUESTED)
    clock.advance(timedelta(hours=2))
    assert await admin.get(flow.id) == flow
    assert [flow] == await listed(admin, running=True)
    assert (await service.get(flow.id)).failure is Failure.EXPIRED
    ended = await admin.get(flow.id)
    assert (ended.history[-1].trigger, ended.history[-1].reason) == ("abandon", Failure.EXPIRED)
    other = await person(State.QUESTION_ANSWERED)
    held = transport.hold("exchange")
    verifying = asyncio.create_task(service.verify(other.id, CODE))
    await held.arrived.wait()
    seen = await admin.get(other.id)
    assert (seen.in_doubt, seen.busy_until) == (None, clock() + TIGHT.lease)
    held.released.set()
    assert (await verifying).version == seen.version + 1


@pytest.mark.parametrize("address", ["postgres", "redis"], indirect=True)
async def test_in_a_database_that_holds_nothing_nothing_is_found_and_nothing_made(
    address: str, keyring: Keyring
) -> None:
    async with Admin(open_store(address), keyring) as admin:
        assert await listed(admin) == await listed(admin, tag="desk-3") == []
        await refused(admin.get("0" * 26), FlowNotFound)
        assert await admin.sealed_with() == {}
        assert (await admin.reseal()).resealed == await admin.purge(DAY) == 0
        assert await admin.lift(USER) == await admin.erase(USER) == ChangeReport()
    assert await dump(address) == b""
    async with ResetService(ScriptedTransport(), open_store(address), keyring, sweep=False) as service:
        flow = await service.start(USER)
    async with Admin(open_store(address), keyring) as admin:
        assert await listed(admin) == [flow]
    assert flow.id.encode() in await dump(address)


async def test_a_clock_or_a_realm_that_can_be_none_is_refused(store: Store, keyring: Keyring) -> None:
    naive = Admin(store, keyring, clock=lambda: datetime(2030, 1, 1))  # noqa: DTZ001 - that is the fault
    await refused(naive.purge(DAY), ConfigurationError)
    for realm in ("", "a\x1fside"):
        with pytest.raises(InvalidInput):
            Admin(store, keyring, realm=realm)


async def test_it_closes_the_store_with_itself(keyring: Keyring) -> None:
    async with Admin(MemoryStore(), keyring) as admin:
        assert await listed(admin) == []
    await refused(admin.get("a"), StoreUnavailable)


# --- keys


async def test_keys_are_rotated_resealed_counted_and_removed(
    admin: Admin, person: Person, service: ResetService, tmp_path: Path, audit: pytest.LogCaptureFixture
) -> None:
    flow = await person(State.QUESTION_ANSWERED)
    await service.side("links").save("a", b"value", revision=b"", lifetime=DAY)
    (old,) = await admin.sealed_with()
    new = rotate_keys(tmp_path / "keys", at_once=True).id
    looked: list[int] = []
    report = await admin.reseal(progress=looked.append)
    assert (report.resealed, report.waiting, report.unreadable, sum(looked)) == (2, 0, 0, 2)
    assert await admin.sealed_with() == {new: 2}
    assert (await admin.get(flow.id)).state is State.QUESTION_ANSWERED
    early = await refused(admin.remove_key(tmp_path / "keys", old), KeyringError)
    assert "until" in str(early)
    await admin.remove_key(tmp_path / "keys", old, realms=["other"], at_once=True)
    assert [key.id for key in Keyring.from_file(tmp_path / "keys").keys] == [new]
    for line in (f"key {new} added", f"2 records resealed with key {new} (desk)", f"key {old} removed (desk)"):
        assert line in audit.text


async def test_a_key_that_another_realm_needs_is_kept(admin: Admin, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    other = ResetService(ScriptedTransport(), store, Keyring.from_file(path), realm="other", sweep=False)
    await other.start(USER)
    (old,) = await Admin(store, Keyring.from_file(path), realm="other").sealed_with()
    rotate_keys(path, at_once=True)
    kept = await refused(admin.remove_key(path, old, realms=["other"], at_once=True), KeyringError)
    assert "1 records of realm other" in str(kept)


# --- purge


async def test_what_ended_longer_ago_is_purged(
    admin: Admin, person: Person, service: ResetService, clock: FrozenClock, audit: pytest.LogCaptureFixture
) -> None:
    old = await person(State.FAILED)
    await service.side("links").save("a", b"value", revision=b"", lifetime=MINUTE)
    clock.advance(3 * DAY)
    recent, running = await person(State.FAILED), await person(State.REQUESTED)
    assert await admin.purge(2 * DAY) == 1
    assert {flow.id for flow in await listed(admin) if isinstance(flow, Flow)} == {recent.id, running.id}
    assert (await admin.sealed_with()).total() == 2, "the side record is gone as well"
    await refused(admin.get(old.id), FlowNotFound)
    assert "1 flows that had ended before" in audit.text
    for length in (-DAY, timedelta.max):
        await refused(admin.purge(length), InvalidInput)


# --- lift


async def fill(person: Person, service: ResetService, transport: ScriptedTransport) -> Flow:
    """Use up the codes and the starts of the user."""
    flow = await person(State.QUESTION_ANSWERED)
    transport.script(exchange=[Rejected(reasons=["wrong"])] * 3)
    for _ in range(3):
        await refused(service.verify(flow.id, CODE), CodeRejected)
    for _ in range(3):
        await service.start(USER)
    assert (await refused(service.start(USER), LimitReached)).limit == "starts_per_user"
    assert (await refused(service.verify(flow.id, CODE), LimitReached)).limit == "codes_per_user"
    return flow


@pytest.mark.parametrize("spelling", [USER, " Robert.ZAK ", "ｒｏｂｅｒｔ.zak"])
async def test_the_budgets_of_one_person_are_lifted_at_once(
    admin: Admin,
    person: Person,
    service: ResetService,
    transport: ScriptedTransport,
    audit: pytest.LogCaptureFixture,
    *,
    spelling: str,
) -> None:
    stranger = await person(State.QUESTION_ANSWERED, "maria")
    flow = await fill(person, service, transport)
    looked: list[int] = []
    assert await admin.lift(spelling, progress=looked.append) == ChangeReport(changed=4)
    assert sum(looked) == 5
    assert (await service.verify(flow.id, CODE)).state is State.TOKEN_ISSUED
    for _ in range(4):
        await service.start(USER)
    await refused(service.start(USER), LimitReached)
    assert (await admin.get(stranger.id)).version == stranger.version
    assert audit.text.count("budgets lifted (desk)") == 4


async def test_wrong_answers_and_wrong_codes_of_an_origin_are_lifted_too(
    admin: Admin, store: Store, keyring: Keyring, transport: ScriptedTransport, clock: FrozenClock
) -> None:
    policy = Policy(answers_per_user=Budget(1, DAY), codes_per_origin=Budget(1, DAY))
    async with ResetService(transport, store, keyring, policy=policy, clock=clock, sweep=False) as service:
        flow = await service.start(USER, origin="home")
        await service.answer(flow.id, "Peterson")
        transport.script(exchange=[Rejected()])
        await refused(service.verify(flow.id, CODE), CodeRejected)
        transport.script(request=[Rejected()])
        other = await service.start(USER, origin="home")
        await refused(service.answer(other.id, "Berlin"), AnswerRejected)
        assert (await refused(service.verify(flow.id, CODE), LimitReached)).limit == "codes_per_origin"
        assert (await refused(service.answer(other.id, "Peterson"), LimitReached)).limit == "answers_per_user"
        assert await admin.lift(USER) == ChangeReport(changed=2)
        assert (await service.answer(other.id, "Peterson")).state is State.QUESTION_ANSWERED
        await service.cancel(other.id)
        assert (await service.verify(flow.id, CODE)).state is State.TOKEN_ISSUED


async def test_a_flow_whose_budgets_are_lifted_holds_its_next_guess_again(
    admin: Admin, person: Person, service: ResetService, transport: ScriptedTransport
) -> None:
    mine = await person(State.QUESTION_ANSWERED)
    await admin.lift(USER)
    transport.script(exchange=[Rejected(reasons=["wrong"])] * 9)
    await refused(service.verify(mine.id, CODE), CodeRejected)
    other = await person(State.QUESTION_ANSWERED)
    with suppress(CodeRejected, LimitReached):
        for _ in range(9):
            await refused(service.verify(other.id, CODE), CodeRejected)
    await refused(service.verify(mine.id, CODE), CodeRejected)  # judged by the broker: there was room for it


async def test_lifting_twice_changes_nothing_the_second_time(admin: Admin, person: Person) -> None:
    flow = await person(State.TOKEN_ISSUED)
    assert await admin.lift(USER) == ChangeReport(changed=1)
    assert await admin.lift(USER) == ChangeReport()
    assert (await admin.get(flow.id)).version == flow.version + 1


async def test_a_flow_with_a_call_under_way_is_left_alone(
    admin: Admin, person: Person, service: ResetService, transport: ScriptedTransport
) -> None:
    flow = await person(State.QUESTION_ANSWERED)
    held = transport.hold("exchange")
    verifying = asyncio.create_task(service.verify(flow.id, CODE))
    await held.arrived.wait()
    assert await admin.lift(USER) == ChangeReport(waiting=1)
    assert await admin.erase(USER) == ChangeReport(waiting=1)
    held.released.set()
    assert (await verifying).state is State.TOKEN_ISSUED
    assert await admin.lift(USER) == ChangeReport(changed=1)
    assert await admin.erase(USER) == ChangeReport(changed=1)


async def test_a_call_whose_worker_is_gone_is_erased_but_left_to_a_sweep_before_it_is_lifted(
    admin: Admin, person: Person, service: ResetService, transport: ScriptedTransport, clock: FrozenClock
) -> None:
    flow = await person(State.QUESTION_ANSWERED)
    held = transport.hold("exchange")
    verifying = asyncio.create_task(service.verify(flow.id, CODE))
    await held.arrived.wait()
    clock.advance(MINUTE)
    assert await admin.lift(USER) == ChangeReport(waiting=1)
    assert await admin.erase(USER) == ChangeReport(changed=1)
    held.released.set()
    await refused(verifying, OutcomeInDoubt)  # it lost its flow, and can't say more
    await refused(admin.get(flow.id), FlowNotFound)


class Interrupted(MemoryStore):
    """A store in which things happen just before an operator's save."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: deque[Callable[[], Awaitable[object]]] = deque()

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        if drop and self.meanwhile:
            await self.meanwhile.popleft()()
        await super().save(record, add=add, drop=drop)


async def test_a_save_that_lost_a_race_is_tried_again(keyring: Keyring, transport: ScriptedTransport) -> None:
    store = Interrupted()
    admin = Admin(store, keyring)
    service = ResetService(transport, store, keyring, sweep=False)
    first, second = await service.start(USER), await service.start(USER)
    store.meanwhile.append(lambda: service.cancel(first.id))
    store.meanwhile.append(lambda: service.cancel(second.id))
    assert await admin.lift(USER) == ChangeReport(changed=2)
    assert [each.failure for each in (await admin.get(first.id), await admin.get(second.id))] == [Failure.CANCELLED] * 2

    third = await service.start(USER)
    store.meanwhile += [service.sweep, lambda: service.cancel(third.id)]
    assert await admin.erase(USER) == ChangeReport(changed=3)
    assert await listed(admin) == []


async def test_a_flow_that_others_save_all_the_time_is_waiting(keyring: Keyring, transport: ScriptedTransport) -> None:
    store = Interrupted()
    admin = Admin(store, keyring)
    service = ResetService(transport, store, keyring, sweep=False)
    flow = await service.start(USER)
    await service.answer(flow.id, "Peterson")
    await service.verify(flow.id, CODE)
    transport.script(update=[Rejected(reasons=["too simple"])] * 5)

    async def fail() -> None:
        await refused(service.set_password(flow.id, "violet tractor 5"), PasswordRejected)

    store.meanwhile += [fail] * 5
    assert await admin.lift(USER) == ChangeReport(waiting=1)
    assert await admin.lift(USER) == ChangeReport(changed=1)


async def test_a_flow_that_is_purged_meanwhile_is_none(keyring: Keyring, transport: ScriptedTransport) -> None:
    store = Interrupted()
    admin = Admin(store, keyring)
    service = ResetService(transport, store, keyring, sweep=False)
    for change in (admin.lift, admin.erase):
        flow = await service.start(USER)
        await service.cancel(flow.id)
        store.meanwhile.append(lambda: admin.purge(timedelta(0)))
        assert await change(USER) == ChangeReport()


# --- erase


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'flows.db'}"
    return str(request.getfixturevalue(f"{request.param}_url"))


async def test_nothing_of_one_person_is_left(address: str, keyring: Keyring, audit: pytest.LogCaptureFixture) -> None:
    store = open_store(address)
    service = ResetService(ScriptedTransport(), store, keyring, sweep=False)
    mine = [await service.start(USER, tags="desk-3", origin=f"10.0.0.{number}") for number in range(20)]
    for flow in mine[5:]:
        await service.answer(flow.id, "Peterson")
    for flow in mine[10:]:
        await service.verify(flow.id, CODE)
    for flow in mine[15:]:
        await service.set_password(flow.id, "violet tractor 5")
    other = await service.start("maria", tags="desk-4")
    before = await dump(address)
    names = [keyring.lookup("default", "tag", "desk-3"), keyring.lookup("default", "budgets", USER)[:15]]
    names.append(keyring.lookup("default", "budgets", f"8 10.0.0.7 {USER}")[:15])
    traces = [flow.id.encode() for flow in mine] + names
    assert all(trace in before for trace in traces), "the search finds what is there"

    looked: list[int] = []
    async with Admin(store, keyring) as admin:
        assert await admin.erase("ROBERT.zak ", progress=looked.append) == ChangeReport(changed=20)
        assert [flow.id for flow in await listed(admin) if isinstance(flow, Flow)] == [other.id]
        assert await listed(admin, tag="desk-3") == []
        assert await admin.erase(USER) == ChangeReport()
    assert sum(looked) == 21
    after = await dump(address)  # closing a store of SQLite has emptied its write-ahead log
    assert [trace for trace in traces if trace in after] == []
    assert other.id.encode() in after
    assert SCANNER.find(after) == []
    assert audit.text.count(": erased (") == 20


async def test_budgets_of_an_erased_person_are_free(
    admin: Admin, person: Person, service: ResetService, transport: ScriptedTransport
) -> None:
    await fill(person, service, transport)
    assert await admin.erase(USER) == ChangeReport(changed=4)
    for _ in range(4):
        await service.start(USER)


async def test_a_worker_that_meets_an_erased_flow_is_told_that_there_is_none(
    admin: Admin, person: Person, service: ResetService, transport: ScriptedTransport
) -> None:
    flow = await person(State.QUESTION_ANSWERED)
    waiting = asyncio.create_task(service.wait(flow.id))
    await asyncio.sleep(0)
    await admin.erase(USER)
    with suppress(FlowNotFound):  # or it was faster than the purge
        assert (await waiting).user == ""
    await refused(service.verify(flow.id, CODE), FlowNotFound)
    assert not [call for call in transport.calls if call.name == "exchange"]


async def test_a_command_that_waited_while_its_flow_was_erased_brings_nothing_of_it_back(
    admin: Admin, store: Store, keyring: Keyring, transport: ScriptedTransport, clock: FrozenClock
) -> None:
    asked: list[str] = []

    async def guard(request: CommandRequest) -> None:
        if request.flow is None:
            return
        asked.append(request.user)
        if len(asked) > 1:
            raise CommandVetoed(request.command)
        assert (await admin.erase(USER)).changed == 1
        await worker.start("maria", ref="ticket-4711")

    worker = ResetService(transport, store, keyring, policy=TIGHT, clock=clock, sweep=False, guards=[guard])
    flow = await worker.start(USER, ref="ticket-4711")
    await refused(worker.answer(flow.id, "Peterson"), CommandVetoed)
    assert asked == [USER, "maria"]
    seen = await worker.get(flow.id)
    assert (seen.user, seen.state, seen.version) == ("maria", State.REQUESTED, 1)
    assert not transport.calls_of("request")
    await worker.aclose()


async def test_an_erasure_that_broke_off_is_completed_by_the_next(
    keyring: Keyring, transport: ScriptedTransport
) -> None:
    class Away(MemoryStore):
        away = False

        async def purge(self, realm: str, before: datetime, limit: int) -> int:
            if self.away:
                raise StoreUnavailable("the store is away")
            return await super().purge(realm, before, limit)

    store = Away()
    service = ResetService(transport, store, keyring, sweep=False)
    flow = await service.start(USER)
    store.away = True
    admin = Admin(store, keyring)
    await refused(admin.erase(USER), StoreUnavailable)
    left = await admin.get(flow.id)
    assert (left.user, left.question, left.history, left.ended) == ("", None, (), True)
    store.away = False
    assert await admin.erase(USER) == ChangeReport()
    await refused(admin.get(flow.id), FlowNotFound)


@pytest.mark.parametrize("user", ["", " ", "a\x00b", "u" * 400])
async def test_what_can_be_no_login_is_refused(admin: Admin, user: str) -> None:
    await refused(admin.lift(user), InvalidInput)
    await refused(admin.erase(user), InvalidInput)


async def test_unreadable_records_are_counted_and_left(
    admin: Admin, person: Person, store: Store, keyring: Keyring
) -> None:
    await person(State.REQUESTED)
    with pytest.warns(UserWarning, match="in no file") if store.durable else nullcontext():
        other = Keyring((Key.generate(),), keyring.lookup_keys)
        foreign = ResetService(ScriptedTransport(), store, other, sweep=False)
    await foreign.start("maria")
    assert await admin.lift(USER) == ChangeReport(changed=1, unreadable=1)
    assert await admin.erase(USER) == ChangeReport(changed=1, unreadable=1)


@pytest.mark.parametrize("change", ["lift", "erase"])
async def test_no_login_stands_in_what_is_logged_of_a_failure(keyring: Keyring, change: str) -> None:
    store = MemoryStore()
    await ResetService(ScriptedTransport(), store, keyring, sweep=False).start(USER)
    store.save = _fails  # type: ignore[method-assign] # only now, when a flow is found
    error = await refused(getattr(Admin(store, keyring), change)(USER), StoreUnavailable)
    shown = shown_by_error(error, callers=[__file__])
    assert b"_change_flows_of" in shown
    assert SCANNER.find(shown) == []


async def _fails(*_: object, **__: object) -> None:
    raise StoreUnavailable("the store is away")
