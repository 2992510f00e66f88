"""Protocols of a store, a transport, a clock and the parts that an embedder may add, and the values passed to them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Protocol

import attrs
from msgspec import Struct
from msgspec.structs import astuple

from reset_flow.domain.flow import Credential, Event, Flow, State
from reset_flow.domain.secret import Shown, Unpicklable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractContextManager

    from reset_flow.domain.capabilities import Capabilities
    from reset_flow.domain.errors import Reason
    from reset_flow.domain.flow import NewCredential
    from reset_flow.domain.outcomes import Outcome
    from reset_flow.domain.secret import Secret

__all__ = [
    "Case",
    "Clock",
    "CommandRequest",
    "Guard",
    "Listener",
    "PasswordCheck",
    "Query",
    "Record",
    "Store",
    "Tracer",
    "Transport",
    "Use",
    "UseName",
]


class Case(Shown, Unpicklable, Struct, frozen=True, kw_only=True, gc=False):
    """
    The part of a flow that a transport may know. It can't be pickled.

    Attributes:
        continuation: The bytes that the transport returned with its last outcome that had any; kept sealed.

        attempt: The same for both sendings of one intent, and for no other: an idempotency key, for providers that take
            one. Empty with calls that change nothing.
    """

    refusal = "a case can't be pickled, as it has a login"
    hidden = frozenset({"user", "continuation"})

    user: str
    credential: Credential = Credential.PASSWORD
    continuation: bytes | None = None
    attempt: str = ""


class Record(Shown, Struct, frozen=True, kw_only=True, gc=False, eq=False):
    """
    What a store keeps of a flow. Times have whole microseconds. Equality ignores the last two fields:
    they are not stored.

    Attributes:
        realm: Any text of at most 400 characters without U+0000.

        id: At most 64 lower-case letters and digits of ASCII. Scans without an order of their own go by it.

        version: 1 for the first save, one more for each that follows.

        due_at: When the sweeper has something to do with it, unless a lease says otherwise; `None`: never.

        ended_at: `None` while the flow runs.

        lease: How long the worker that saved this may be busy with a call. It ends by the store's clock.

        lookups: Keyed hashes, 16 bytes each, under which a scan finds the flow; the same in every version.

        write_id: 8 random bytes that tell this save from every other.

        body: Sealed; opaque to the store.

        replaces: The write id of the version that this one replaces; empty for the first. Versions alone would not
            tell a flow from another that was started under its id after a purge.

        lease_left: Set by the store when it loads: the rest of the lease by its clock, zero or less when it has run
            out; `None` where there is no lease.
    """

    hidden = frozenset({"write_id", "body", "replaces"})

    realm: str
    id: str
    version: int
    state: State
    due_at: datetime | None = None
    ended_at: datetime | None = None
    lease: timedelta | None = None
    lookups: tuple[bytes, ...] = ()
    write_id: bytes
    body: bytes
    replaces: bytes = b""
    lease_left: timedelta | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return astuple(self)[:-2] == astuple(other)[:-2]

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment] # nothing keeps records in sets


class UseName(Struct, frozen=True, gc=False):
    """
    The name of one counted use.

    Attributes:
        key: Names the budget: a keyed hash, 16 bytes.

        id: Names the use within the budget; at most 16 bytes. No id is used twice.
    """

    key: bytes
    id: bytes


class Use(Struct, frozen=True, kw_only=True, gc=False):
    """
    One use of a budget, which counts until its window is over, by the store's clock.

    Attributes:
        key, id: As in `UseName`.

        limit: How many uses the key may hold, this one included. The uses of one key in one save have the same limit.

        window: How long this use counts, from the save that adds it.
    """

    key: bytes
    id: bytes
    limit: int
    window: timedelta


@attrs.frozen(kw_only=True)
class Query:
    """
    Which records of a realm to go through.

    Attributes:
        due: Only those whose lease has run out or, without one, whose `due_at` has come, by the store's clock;
            the longest due first, in any order among equals.

        lookup: Only those that carry this keyed hash; the newest flow, by the save of its first version, comes first.

        after: Only those with a greater id, for going through all of a realm piece by piece. Without `due` and
            `lookup`, records come in the order of their ids, each once.
    """

    realm: str
    due: bool = False
    lookup: bytes | None = None
    after: str = ""


class Store(Protocol):
    """
    Keeps records. Opens itself at its first call; every call may come from many tasks at once.

    Every method raises `StoreUnavailable` when the store can't be reached, can't write or was closed, chained from the
    driver's error if there is one; and `ConfigurationError` when this release can't work with the store. A call that is
    cancelled may have been carried out or not, and disturbs no other.
    """

    durable: bool
    """Whether saved records outlive the process."""

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        """
        Write the record and change the uses, both or neither, and return once that is on disk.

        A record whose write id is stored already is a success, without a look at anything else: an earlier try got
        through. Otherwise the uses in `drop` are deleted, those that are not there included, and then those in `add`
        are counted. A use that is there and has not expired stays as it is, without a look at its limit; one that has
        expired counts as absent.

        Raises:
            StaleRecord: The stored version is not exactly one behind, or its write id is not the one that the record
                replaces (0 and empty: nothing is stored).
            LimitReached: A key would hold more uses that have not expired than a use that is added allows. `keys` are
                the keys that were refused; `retry_after` is the time until the same save would succeed if nothing else
                happened, `None` if it never would.
        """

    async def load(self, flow_id: str) -> Record:
        """
        Return the newest version of one record.

        Raises:
            FlowNotFound: There is none.
            RecordUnreadable: The stored value is no record.
        """

    def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        """
        Yield at most `limit` records; skip stored values that are no records.

        Others may save while it runs: their saves are seen or not.
        """

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        """
        Return once a version newer than this one is stored, or when the time is up.

        Raises:
            FlowNotFound: There is no such record (any more).
        """

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        """
        Delete at most `limit` records that ended before then, in any order, and expired uses. Return the number of
        records.
        """

    async def aclose(self) -> None:
        """Let go of everything. Idempotent. A task that waits in `changed` gets `StoreUnavailable`."""


class Transport(Protocol):
    """
    Talks to a broker. Every method returns within `deadline`, raises nothing of its driver's, and repeats nothing.

    Attributes:
        name: Sealed into each flow; a flow refuses a transport of another name, unless the transport has `aliases`, an
            optional set of other names of the same broker, and the flow's is one of them.
    """

    name: str
    deadline: timedelta
    capabilities: Capabilities

    def canonical_user(self, user: str) -> str:
        """Return the one spelling of all that the broker takes for the same user; for lookup and budget keys only."""

    async def challenge(self, case: Case) -> Outcome:
        """Ask for the secret question; changes nothing at the broker."""

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        """Have a code sent to the person."""

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        """Spend the code; accepted with the token. Not called where `capabilities.verifies_code` is `False`."""

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        """
        Spend the token on a new password or PIN. Where `capabilities.verifies_code` is `False`, the token is the code
        that the person typed.
        """

    async def log_in(self, case: Case, password: Secret) -> Outcome:
        """Try the password. `Accepted`: it is right. Any other outcome says nothing about it."""

    async def probe(self, case: Case) -> Outcome:
        """
        Make a harmless request of the same host, for flows whose user the broker refused: such a flow shares its
        faults, which are `Unknown` and `NotActed`. `Accepted` and `Rejected` say that the host is up. Not called where
        `capabilities.probes` is `False`.
        """

    async def aclose(self) -> None:
        """Let go of what it opened itself. Idempotent. Later calls return `NotActed` and send nothing."""


class Tracer(Protocol):
    """Told of what the library does, for tracing and metrics. Nothing that it is told is a secret or a login."""

    def span(self, name: str, **attributes: str | int | bool) -> AbstractContextManager[None]:
        """Around a `command`, a `call`, a `save` or a `sweep`; an error that passes through ends it as failed."""

    def count(self, name: str, amount: int = 1, **attributes: str | int | bool) -> None:
        """Something countable happened: a `transition`, a `doubt`, an `alarm`."""


class Clock(Protocol):
    """Tells the time."""

    def __call__(self) -> datetime:
        """Now, aware."""


@attrs.frozen(kw_only=True)
class CommandRequest(Unpicklable):
    """
    A command that is about to be carried out. It can't be pickled, as it has a login.

    Attributes:
        command: Its name: `start`, `adopt`, or one of `Flow.allowed`.

        origin: As it was given to `start`; `None` with all other commands.

        flow: `None` where the command is to make one.
    """

    refusal: ClassVar[str] = "a command request can't be pickled, as it has a login"

    command: str
    user: str = attrs.field(repr=False)
    origin: str | None = attrs.field(default=None, repr=False)
    flow: Flow | None = None


class Guard(Protocol):
    """Asked before a command writes anything or calls the broker. May look things up, must not change the flow."""

    async def __call__(self, request: CommandRequest) -> None:
        """
        Return to let the command through.

        Raises:
            CommandVetoed: To stop it.
        """


class PasswordCheck(Protocol):
    """
    A further check of a new password, such as for breaches or for strength.

    It is called only if the rules have no complaint. An error, or no answer within five seconds, is logged and counts
    as no complaint.
    """

    async def __call__(self, password: Secret, user: str, /) -> tuple[Reason | str, ...]:
        """Return complaints, if any: lower-case clauses that tell the person what to do."""
        ...


class Listener(Protocol):
    """
    Told of what a flow durably did: of the end at least once, even if the process dies in between; of all else at most
    once.
    """

    async def __call__(self, event: Event) -> None:
        """Act on it. What it raises is logged, disturbs nobody, and has the end told again later."""
