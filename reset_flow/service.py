"""The commands, as an embedder calls them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import aclosing, suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import attrs

from reset_flow.domain import validation
from reset_flow.domain.capabilities import Capabilities
from reset_flow.domain.errors import ConfigurationError, FlowNotFound, InputRejected, InvalidInput, RecordUnreadable
from reset_flow.domain.flow import Credential, NewCredential
from reset_flow.domain.policy import Policy
from reset_flow.domain.secret import Secret
from reset_flow.domain.times import NO_TIME
from reset_flow.engine import guess_alarm
from reset_flow.engine.background_tasks import BackgroundTasks
from reset_flow.engine.broker_client import BrokerClient
from reset_flow.engine.commands import Caller, CommandHandler
from reset_flow.engine.context import Context, in_utc, moments, system_clock, worker_names
from reset_flow.engine.intents import IntentExecutor
from reset_flow.engine.notifications import Notifications
from reset_flow.engine.recovery import Recovery
from reset_flow.engine.starter import Starter, StartRequest
from reset_flow.engine.sweeper import Sweeper
from reset_flow.observability.tracing import CarefulTracer, NullTracer
from reset_flow.persistence import key_rotation
from reset_flow.persistence.key_record import KeyedStore
from reset_flow.persistence.keyring import Keyring
from reset_flow.persistence.repository import FlowRepository, spell
from reset_flow.persistence.side_records import SideRecords

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from reset_flow.domain.flow import Flow
    from reset_flow.engine.commands import Given
    from reset_flow.engine.sweeper import SweepReport
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.ports import Clock, Guard, Listener, Store, Tracer, Transport

FOUND_AT_MOST = 100
CLOSING_PATIENCE = timedelta(seconds=30)
LONGEST_TIMEOUT = 366 * 86_400
LONGEST_PATIENCE = timedelta(days=1)
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 60.0
TRANSPORT_METHODS = ("canonical_user", "challenge", "request", "exchange", "update", "log_in", "probe", "aclose")


def _seconds(timeout: Any) -> float:
    if timeout is None:
        return math.inf
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds < LONGEST_TIMEOUT:
        raise InvalidInput("timeout: it must be a timedelta, or seconds up to a year; None waits for the end")
    return seconds


def _patience(given: Any) -> timedelta:
    if not isinstance(given, timedelta) or not NO_TIME <= given <= LONGEST_PATIENCE:
        raise InvalidInput(f"patience: it must be a timedelta from 0 to {LONGEST_PATIENCE}")
    return given


def _fitted(policy: Policy, can: Capabilities) -> Policy:
    """Return the policy, with the lifetimes of the provider's codes and tokens where it leaves them open."""
    return attrs.evolve(
        policy,
        code_lifetime=policy.code_lifetime or can.code_lifetime,
        token_lifetime=policy.token_lifetime or can.token_lifetime,
    )


def _check_transport(transport: Any) -> None:
    """Raise ConfigurationError if a transport of somebody else's is none."""
    validation.broker(getattr(transport, "name", None), "the transport's name")
    validation.brokers(getattr(transport, "aliases", ()))
    deadline = getattr(transport, "deadline", None)
    if not isinstance(deadline, timedelta) or deadline <= NO_TIME:
        raise ConfigurationError("the transport's deadline must be a timedelta longer than zero")
    can = getattr(transport, "capabilities", None)
    if not isinstance(can, Capabilities):
        raise ConfigurationError("the transport's capabilities must be Capabilities()")
    unused = {"exchange": not can.verifies_code, "probe": not can.probes}
    for method in TRANSPORT_METHODS:
        if not callable(getattr(transport, method, None)) and not unused.get(method):
            raise ConfigurationError(f"the transport must have a method {method}")


def _check_kinds(*, policy: Any, store: Any, keyring: Any, listeners: Any, guards: Any) -> None:
    """Raise ConfigurationError if an argument is of another kind."""
    for what, fits, like in (
        ("policy", isinstance(policy, Policy), "like Policy(lease=timedelta(seconds=30))"),
        ("store", isinstance(getattr(store, "durable", None), bool), "like SQLiteStore(path)"),
        ("keyring", isinstance(keyring, Keyring), "like Keyring.load_or_create(path)"),
        ("listeners", isinstance(listeners, Mapping), "given by their names, like {'crm': tell_crm}"),
        ("guards", isinstance(guards, Iterable), "several of them, like [is_human]"),
    ):
        if not fits:
            raise ConfigurationError(f"{what} must be {like}")


def _check_callables(what: str, given: Iterable[object]) -> None:
    if not all(each is None or callable(each) for each in given):
        raise ConfigurationError(f"each of {what} must be callable, like an async function of one argument")


def _check(policy: Policy, transport: Transport, store: Store, keyring: Keyring) -> None:
    for what, length in (("transport's deadline", transport.deadline), ("response floor", policy.response_floor)):
        if length >= policy.lease:
            raise ConfigurationError(f"the {what} of {length} must be shorter than the lease of {policy.lease}")
    if store.durable and not keyring.saved:
        warnings.warn(
            "these keys are in no file: what the store keeps can't be read once this process is gone; "
            "use Keyring.load_or_create(path)",
            stacklevel=3,
        )


class ResetService:
    """
    Carries resets from request to working password.

    Use it as an async context manager, one for as long as the process lives; it closes transport and store with itself.
    Any number of tasks, processes and machines may work on the flows of one store and realm at once.

    A command that moved its flow on returns it as it now stands; one that did not raises a `ResetFlowError`, with the
    flow as `error.flow`. A caller who is cancelled leaves the command running to its end.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store,
        keyring: Keyring,
        *,
        policy: Policy | None = None,
        realm: str = "default",
        listeners: Mapping[str, Listener | None] | None = None,
        guards: Sequence[Guard] = (),
        clock: Clock = system_clock,
        sweep: bool = True,
        worker: str | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        _check_transport(transport)
        policy, listeners = Policy() if policy is None else policy, {} if listeners is None else listeners
        _check_kinds(policy=policy, store=store, keyring=keyring, listeners=listeners, guards=guards)
        policy = _fitted(policy, transport.capabilities)
        _check(policy, transport, store, keyring)
        _check_callables("listeners", listeners.values())
        _check_callables("guards", guards := tuple(guards))
        self._realm = validation.name(realm, "realm")
        self._policy = policy
        self._capabilities = transport.capabilities
        self._store = store = KeyedStore(store, keyring, self._realm)
        self._keyring = keyring
        self._now = in_utc(clock)
        named = {validation.name(name, "listener"): each for name, each in listeners.items()}
        name_worker = worker_names(validation.name(worker, "worker") if worker else None)
        moment = moments(self._now, name_worker)
        safe: SafeTracer = CarefulTracer(tracer) if tracer else NullTracer()
        present = [name for name, each in named.items() if each is not None]
        self._repository = FlowRepository(store, keyring, self._realm, policy.lease, safe, listeners=present)
        self._tasks = BackgroundTasks()
        self._alarm = guess_alarm.GuessMonitor(self.side(guess_alarm.KIND), safe, policy, self._now)
        self._broker = BrokerClient(transport, policy, safe)
        context = Context(
            policy=policy,
            realm=self._realm,
            name_worker=name_worker,
            moment=moment,
            now=self._now,
            guards=guards,
            keyring=keyring,
            repository=self._repository,
            broker=self._broker,
            alarm=self._alarm,
            notifications=Notifications(named, self._repository, self._tasks, safe, moment, retention=policy.retention),
            tasks=self._tasks,
            tracer=safe,
        )
        intents = IntentExecutor(context)
        self._recovery = Recovery(context, intents)
        self._commands = CommandHandler(context, intents, self._recovery)
        self._starter = Starter(context, intents, self._recovery)
        self._sweeper = Sweeper(context, self._recovery, store)
        self._sweeps = sweep

    @property
    def capabilities(self) -> Capabilities:
        """What the provider can do."""
        return self._capabilities

    @property
    def policy(self) -> Policy:
        """The limits of new flows, with the lifetimes of the provider's codes and tokens."""
        return self._policy

    async def __aenter__(self) -> Self:
        if self._sweeps:
            self._sweeper.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self, patience: timedelta = CLOSING_PATIENCE) -> None:
        """Wait for what is under way, not longer than this, and let go of transport and store."""
        patience = _patience(patience)
        await self._sweeper.aclose()
        give_up_at = time.monotonic() + patience.total_seconds()
        async with aclosing(self._store), aclosing(self._broker):
            try:
                await self._tasks.aclose(patience)
            finally:
                await self._alarm.aclose(timedelta(seconds=give_up_at - time.monotonic()))

    # --- making a flow

    async def start(
        self,
        user: str | Secret,
        *,
        credential: Credential = Credential.PASSWORD,
        ref: str | Secret | None = None,
        tags: Iterable[str | Secret] = (),
        origin: str | Secret | None = None,
        secret: str | Secret | None = None,
        patience: timedelta = NO_TIME,
    ) -> Flow:
        """
        Start a flow. It expects an answer, or a code where the broker asks this user no question.

        Args:
            user: Login or e-mail address, as the broker takes it; spaces at its ends are left out.

            ref: The embedder's own name of this reset. Seen again, it gives the flow that it made, also one that has
                ended.

            tags: Names under which `find` gives the flow.

            origin: Where the wish comes from (an address, a chat account), counted beside the user against floods.

            secret: In the place of a `ref`, a random text of at least 128 bits that only the person's browser or
                program has. Exactly this text gives the flow again, here and by `id_of`; the store has its hash alone.

        Raises:
            LimitReached: Too many were started for this user; those that run stay usable.
            UnknownUser: The broker will not reset this user, and `Policy.mask_unknown_users` is off.
            KeyReused: The `ref` names the reset of another user or credential.
            FlowBusy: The `ref` names a flow with a call under way, or that a process left which died in it.
        """
        user, ref, origin, secret = Secret(user), *map(validation.hidden, (ref, origin, secret))
        tags = validation.tags(tags)
        if ref is not None and secret is not None:
            raise InvalidInput("start: give a ref or a secret, not both")
        flow_id = None if secret is None else self.id_of(secret)
        return await self._starter.start(
            StartRequest(user=user, credential=credential, ref=ref, tags=tags, origin=origin, id=flow_id),
            _patience(patience),
        )

    async def adopt(
        self,
        user: str | Secret,
        token: str | Secret,
        *,
        credential: Credential = Credential.PASSWORD,
        ref: str | Secret | None = None,
        tags: Iterable[str | Secret] = (),
        patience: timedelta = NO_TIME,
    ) -> Flow:
        """
        Make a flow for a token that came from elsewhere, such as a log-in with an expired password: it expects the new
        password at once. Takes and raises what `start` does.
        """
        user, token, ref = Secret(user), Secret(token), validation.hidden(ref)
        tags = validation.tags(tags)
        return await self._starter.adopt(
            StartRequest(user=user, credential=credential, ref=ref, tags=tags, token=token), _patience(patience)
        )

    # --- moving it on
    #
    # Each takes `key`, an idempotency key of the embedder's. Seen again for the same flow, it gives what came of the
    # first, without a call; the last eight are remembered. A command of which nothing came may be tried again with it,
    # and so may one whose doubt still stands. Each takes `patience`: how long to wait for the end of another call of
    # the flow before `FlowBusy` is raised. And each takes `holder`: who gives it, in the embedder's words, such as a
    # session or a conversation. A code that is taken binds the flow to its holder: until another code is needed,
    # commands of anybody else raise `HeldElsewhere`, but for a `cancel` without a holder.

    async def answer(
        self,
        flow_id: str,
        text: str | Secret = "",
        *,
        key: str | Secret | None = None,
        holder: str | Secret | None = None,
        patience: timedelta = NO_TIME,
    ) -> Flow:
        """
        Answer the secret question. A code is then on its way; `in_doubt` says that it may be.

        Args:
            text: Sent exactly as given. Empty only where no question is known.

        Raises:
            AnswerRejected: It is wrong.
        """
        text, key, holder = Secret(text), validation.hidden(key), validation.hidden(holder)
        return await self._run(
            flow_id,
            "answer",
            self._caller(key, holder),
            patience,
            lambda: None if text.reveal() == "" else validation.answer(text),
        )

    async def resend(
        self,
        flow_id: str,
        *,
        key: str | Secret | None = None,
        holder: str | Secret | None = None,
        patience: timedelta = NO_TIME,
    ) -> Flow:
        """
        Have another code sent; `in_doubt` says that it may be on its way.

        Raises:
            LimitReached: Too soon, or too often for one flow.
            AnswerRejected: The answer that was once taken no longer is; the flow expects one again.
        """
        key, holder = validation.hidden(key), validation.hidden(holder)
        return await self._run(flow_id, "resend", self._caller(key, holder), patience, lambda: None)

    async def verify(
        self,
        flow_id: str,
        code: str | Secret,
        *,
        key: str | Secret | None = None,
        holder: str | Secret | None = None,
        patience: timedelta = NO_TIME,
    ) -> Flow:
        """
        Give the code from the e-mail. The flow then expects the new password or PIN.

        Args:
            code: As `Capabilities.code` says, such as six digits, however they are typed.

        Raises:
            CodeRejected: It is wrong, or can't be a code. Where the broker judges it only together with the new
                password, it is held until then, and `set_password` raises this.
            OutcomeInDoubt: Nobody knows whether the code is spent: the person types it again or asks for another one.
        """
        code, key, holder = Secret(code), validation.hidden(key), validation.hidden(holder)
        form = self._capabilities.code
        return await self._run(
            flow_id, "verify", self._caller(key, holder), patience, lambda: validation.code(code, form)
        )

    async def set_password(
        self,
        flow_id: str,
        password: str | Secret,
        *,
        key: str | Secret | None = None,
        holder: str | Secret | None = None,
        patience: timedelta = NO_TIME,
    ) -> Flow:
        """
        Set the new password, which ends the flow.

        Args:
            password: Sent exactly as given.

        Raises:
            PasswordRejected: It is not good enough.
            CodeRejected: The code or token that goes with it is refused: the flow expects another code.
            OutcomeInDoubt: Nobody knows; the person may try to log in, or set it again.
        """
        password, key, holder = Secret(password), validation.hidden(key), validation.hidden(holder)
        return await self._run(
            flow_id,
            "set_password",
            self._caller(key, holder),
            patience,
            lambda: NewCredential(secret=validation.password(password)),
        )

    async def set_pin(
        self,
        flow_id: str,
        pin: str | Secret,
        *,
        image_name: str | None = None,
        personal_phrase: str | Secret | None = None,
        authorization: str | Secret | None = None,
        key: str | Secret | None = None,
        holder: str | Secret | None = None,
        patience: timedelta = NO_TIME,
    ) -> Flow:
        """
        Set the new PIN, which ends the flow. Raises what `set_password` does. Provisional, as the broker's documents
        are unsure of it.

        Args:
            image_name: One of the broker's security images.

            authorization: The bearer token of a log-in.
        """
        pin, key, holder = Secret(pin), validation.hidden(key), validation.hidden(holder)
        personal_phrase, authorization = validation.hidden(personal_phrase), validation.hidden(authorization)
        details = validation.details(
            image_name=validation.hidden(image_name), personal_phrase=personal_phrase, authorization=authorization
        )
        new = partial(NewCredential, details=details)
        return await self._run(
            flow_id, "set_pin", self._caller(key, holder), patience, lambda: new(secret=validation.pin(pin))
        )

    async def cancel(
        self,
        flow_id: str,
        *,
        key: str | Secret | None = None,
        holder: str | Secret | None = None,
        patience: timedelta = NO_TIME,
    ) -> Flow:
        """Give the flow up."""
        key, holder = validation.hidden(key), validation.hidden(holder)
        return await self._run(flow_id, "cancel", self._caller(key, holder), patience, lambda: None)

    async def submit(
        self,
        flow_id: str,
        text: str | Secret,
        *,
        key: str | Secret | None = None,
        holder: str | Secret | None = None,
        patience: timedelta = NO_TIME,
    ) -> Flow:
        """
        Give the flow whatever it expects now: `answer`, `verify`, `set_password` or `set_pin`, with all that they
        return and raise. Give a `key` with it where the same message may come twice: else a code that comes again could
        be taken for the new PIN.
        """
        text, key, holder = Secret(text), validation.hidden(key), validation.hidden(holder)
        command = await self._commands.command_for(flow_id, self._hash("key", key))
        method: Callable[..., Coroutine[Any, Any, Flow]] = getattr(self, command)
        return await method(flow_id, text, key=key, holder=holder, patience=patience)

    def _caller(self, key: Secret | None, holder: Secret | None) -> Caller:
        return Caller(self._hash("key", key), self._hash("holder", holder))

    def _hash(self, purpose: str, given: Secret | None) -> bytes | None:
        return None if given is None else self._digest(purpose, Secret(validation.name(given, purpose)))

    async def _run(
        self, flow_id: str, command: str, caller: Caller, patience: timedelta, make: Callable[[], Given]
    ) -> Flow:
        patience = _patience(patience)
        try:
            given = make()
        except InputRejected as error:
            given = error  # to be raised once the flow is loaded
        return await self._commands.run(flow_id, command, given, caller, patience)

    # --- looking

    async def get(self, flow_id: str, *, holder: str | Secret | None = None) -> Flow:
        """
        Return the flow as it stands. A flow whose time is up is ended by this.

        Raises:
            HeldElsewhere: A `holder` is given, and the flow is bound to another one.
        """
        return await self._recovery.look(flow_id, self._hash("holder", validation.hidden(holder)))

    def id_of(self, secret: str | Secret) -> str:
        """
        Return the id of the flow that was started with this secret, if any was.

        Raises:
            InvalidInput: No start takes such a text.
        """
        return spell(self._digest("secret", validation.secret(secret)))

    async def find(self, tag: str | Secret | None = None, *, ref: str | Secret | None = None) -> list[Flow]:
        """
        Return the flows with this tag, the newest first, at most 100; or the flow that was made with this `ref`, if
        there is one. Unreadable ones are left out.
        """
        tag, ref = validation.hidden(tag), validation.hidden(ref)
        if (tag is None) is (ref is None):
            raise InvalidInput("find: give a tag or a ref")
        purpose, name = ("ref", ref) if tag is None else ("tag", tag)
        flows: list[Flow] = []
        for lookup in self._keyring.lookups(self._realm, purpose, validation.name(name, purpose)):
            if tag is None:
                with suppress(FlowNotFound, RecordUnreadable):
                    flows.append((await self._repository.load(spell(lookup))).view(self._now()))
            else:
                scan = self._repository.scan(lookup=lookup, limit=FOUND_AT_MOST - len(flows))
                flows += [found.view(self._now()) async for found in scan if not isinstance(found, RecordUnreadable)]
        return sorted(flows, key=lambda flow: flow.created_at, reverse=True)

    async def wait(self, flow_id: str, timeout: timedelta | float | None = None) -> Flow:
        """
        Wait until the flow has ended, and return it; or as it stands when the time is up. A timeout is a `timedelta` or
        seconds; `None` waits for the end, which `Policy.flow_lifetime` brings.
        """
        give_up_at = time.monotonic() + _seconds(timeout)
        while True:
            flow = await self.get(flow_id)
            left = give_up_at - time.monotonic()
            if flow.ended or left <= 0:
                return flow
            ends_at = max(flow.expires_at, flow.busy_until or flow.expires_at)
            until_end = max((ends_at - self._now()).total_seconds(), SHORTEST_WAIT)
            pause = timedelta(seconds=min(left, until_end, LONGEST_WAIT))
            await self._repository.changed(flow_id, flow.version, pause)

    def side(self, kind: str) -> SideRecords:
        """
        Return the side records of one kind: sealed values by name, with a lifetime and compare-and-swap.

        For surfaces (links, conversations, limits of clients), which never touch a flow's record. Purge, reseal and
        removal of keys include them; `find` and `get` do not.
        """
        return SideRecords(self._store, self._keyring, self._realm, validation.name(kind, "kind"), self._now)

    def digest(self, purpose: str, text: str | Secret) -> bytes:
        """Hash exactly this text to 16 bytes under a key of the ring, for surfaces that make and compare tokens."""
        return self._digest(f"surface {purpose}", Secret(text))

    def _digest(self, purpose: str, text: Secret) -> bytes:
        return self._keyring.digest(self._realm, purpose, text.reveal())

    async def reseal(self) -> key_rotation.ResealReport:
        """Seal every flow of the realm with the newest key, so that older ones can be removed from the ring."""
        return await key_rotation.reseal(self._store, self._keyring, self._realm)

    async def sweep(self) -> SweepReport:
        """
        Do at once the work of the background loop: end flows whose time is up, settle intents of workers that are gone,
        tell listeners of ends, purge. Safe in every worker at once.
        """
        return await self._sweeper.sweep()
