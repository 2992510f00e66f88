"""The commands that make a flow."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reset_flow.domain import rules, validation
from reset_flow.domain.error_mapping import not_acted
from reset_flow.domain.errors import (
    FlowNotFound,
    InvalidInput,
    KeyReused,
    LimitReached,
    ResetFlowError,
    StaleRecord,
    UnknownUser,
)
from reset_flow.domain.flow import Credential
from reset_flow.domain.flow_data import FlowData
from reset_flow.domain.outcomes import Accepted, Rejected
from reset_flow.engine.broker_client import case_of
from reset_flow.persistence.repository import new_id, spelled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime

    from reset_flow.domain.flow import Flow
    from reset_flow.domain.policy import Policy
    from reset_flow.domain.secret import Secret
    from reset_flow.engine.broker_client import Caller
    from reset_flow.engine.budgets import Budgets
    from reset_flow.engine.commands import Cycle
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.keyring import Keyring
    from reset_flow.ports import Transport

__all__ = ["Starter"]

audit = logging.getLogger("reset_flow.audit")

TAGS = 16


class Starter:
    """Makes the flows of one service."""

    def __init__(
        self,
        cycle: Cycle,
        caller: Caller,
        transport: Transport,
        keyring: Keyring,
        budgets: Budgets,
        *,
        tracer: SafeTracer,
        policy: Policy,
        realm: str,
        now: Callable[[], datetime],
        listeners: tuple[str, ...],
        worker: str,
    ) -> None:
        self._cycle = cycle
        self._caller = caller
        self._transport = transport
        self._keyring = keyring
        self._budgets = budgets
        self._tracer = tracer
        self._policy = policy
        self._realm = realm
        self._now = now
        self._listeners = listeners
        self._worker = worker

    async def start(self, user: Secret, credential: Any, ref: Secret | None, tags: Any, origin: Secret | None) -> Flow:
        """A new flow for a user, or the one that the `ref` has made already."""
        return await self._told(self._start(user, credential, ref, tags, origin), "start")

    async def adopt(self, user: Secret, token: Secret, credential: Any, ref: Secret | None, tags: Any) -> Flow:
        """A new flow for a token from elsewhere, or the one that the `ref` has made already."""
        return await self._told(self._adopt(user, token, credential, ref, tags), "adopt")

    async def _told(self, work: Coroutine[Any, Any, Flow], command: str) -> Flow:
        """Tell the tracer of a command that makes a flow; and the audit log, where it makes none."""
        try:
            return await self._tracer.during(work, "command", command=command)
        except ResetFlowError as error:
            audit.info("%s refused: %s (%s)", command, error.code, self._worker)
            raise

    async def _start(self, user: Secret, credential: Any, ref: Secret | None, tags: Any, origin: Secret | None) -> Flow:
        draft = self._draft(user, credential, ref, tags)
        if ref is not None and (flow := await self._known(draft)):
            return flow
        charges = self._budgets.start(draft.user, None if origin is None else validation.name(origin, "origin"))
        data = await self._asked(draft)
        try:
            if data.question:
                return await self._cycle.keep(data, 0, charges)
            return await self._cycle.begin(data, charges)
        except LimitReached as error:
            raise LimitReached("resets of this user", error.retry_after) from None
        except StaleRecord:
            # Another worker made the flow of this `ref` at the same moment.
            if flow := await self._known(draft):
                return flow
            raise

    async def _adopt(self, user: Secret, token: Secret, credential: Any, ref: Secret | None, tags: Any) -> Flow:
        data = self._draft(user, credential, ref, tags)
        if ref is not None and (flow := await self._known(data, adopting=True)):
            return flow
        try:
            now = rules.Moment(self._now(), self._worker)
            return await self._cycle.keep(rules.adopt(data, validation.token(token), self._policy, now))
        except StaleRecord:
            if flow := await self._known(data, adopting=True):
                return flow
            raise

    def _draft(self, user: Secret, credential: Any, ref: Secret | None, tags: Any) -> FlowData:
        if not isinstance(tags, list) or len(tags) > TAGS:
            raise InvalidInput(f"tags: there must be at most {TAGS}, in a list")
        if not isinstance(credential, str) or credential not in self._transport.credentials:
            raise InvalidInput(f"credential: {self._transport.name} can't reset a {credential}")
        flow_id = new_id() if ref is None else spelled(self._lookup("ref", ref))
        now = self._now()
        return FlowData(
            id=flow_id,
            user=validation.name(user, "user"),
            credential=Credential(credential),
            transport=self._caller.name,
            created_at=now,
            expires_at=now + self._policy.flow_lifetime,
            listeners=self._listeners,
            lookups=tuple(dict.fromkeys([self._lookup("tag", tag) for tag in tags])),
        )

    def _lookup(self, purpose: str, given: Secret) -> bytes:
        return self._keyring.lookup(self._realm, purpose, validation.name(given, purpose))

    async def _known(self, draft: FlowData, *, adopting: bool = False) -> Flow | None:
        """The flow that this `ref` has made already; taken up where nothing was sent for it yet."""
        try:
            known = await self._cycle.resume(draft.id)
        except FlowNotFound:
            return None
        same = self._transport.canonical_user
        if same(known.user) != same(draft.user) or known.credential is not draft.credential:
            raise KeyReused("this ref names the reset of another user or credential: choose another one")
        if adopting and not rules.adopted(known):
            raise KeyReused("this ref names a reset that was started, not adopted: choose another one")
        if rules.unsent(known):
            with suppress(StaleRecord):
                return await self._cycle.begin(known)
            known = await self._cycle.resume(draft.id)  # another worker was faster
        return self._cycle.view(known)

    async def _asked(self, draft: FlowData) -> FlowData:
        """The draft that knows what the broker said of its question."""
        outcome = await self._caller.challenge(case_of(draft))
        match outcome:
            case Accepted():
                return rules.asked(draft, outcome)
            case Rejected() if self._policy.mask_unknown_users:
                return rules.masked(draft, self._decoy(draft.user))
            case Rejected(reasons=reasons):
                raise UnknownUser(*reasons)
            case _:
                raise not_acted(outcome)

    def _decoy(self, user: str) -> str:
        """What this user is asked who is unknown: always the same; nothing, where nobody is asked anything."""
        questions = self._policy.decoy_questions
        if not questions:
            return ""
        number = int.from_bytes(self._keyring.lookup(self._realm, "decoy", self._transport.canonical_user(user)))
        return questions[number % len(questions)]
