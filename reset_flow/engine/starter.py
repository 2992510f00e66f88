"""Carries out the commands that make a flow: start and adopt."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain import rules, validation
from reset_flow.domain.decide import Adopted, Asked, Decision, Intended, decide, not_acted
from reset_flow.domain.errors import FlowNotFound, InvalidInput, KeyReused, ResetFlowError, StaleRecord
from reset_flow.domain.flow import Credential
from reset_flow.domain.flow_data import FlowData
from reset_flow.domain.outcomes import NotActed
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import printable
from reset_flow.engine.broker_client import case_of
from reset_flow.persistence.repository import new_id, spell
from reset_flow.ports import CommandRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from datetime import timedelta

    from reset_flow.domain.flow import Flow
    from reset_flow.engine.context import Context
    from reset_flow.engine.intents import IntentExecutor
    from reset_flow.engine.recovery import Recovery

audit = logging.getLogger("reset_flow.audit")

OWNER_KEY_BYTES = 15
"""A budget's key is a keyed hash of this length and the letter of the budget."""


@attrs.frozen(kw_only=True)
class StartRequest:
    """
    What a flow is to be made of, as it was given: hidden, as it may hold logins, and not checked yet.

    Attributes:
        token: From elsewhere, for a flow that is adopted.

        id: Of the flow, where it is made of a secret.
    """

    user: Secret
    credential: Any
    ref: Secret | None
    tags: tuple[Secret, ...]
    origin: Secret | None = None
    token: Secret | None = None
    id: str | None = None


class Starter:
    """Makes the flows of one service."""

    def __init__(self, context: Context, intents: IntentExecutor, recovery: Recovery) -> None:
        self._context = context
        self._intents = intents
        self._recovery = recovery

    async def start(self, request: StartRequest, patience: timedelta) -> Flow:
        """Start a flow for a user, or return the one that was made with this ref."""
        return await self._traced("start", partial(self._once, request, self._start), patience)

    async def adopt(self, request: StartRequest, patience: timedelta) -> Flow:
        """Make a flow for a token from elsewhere, or return the one that was made with this ref."""
        return await self._traced("adopt", partial(self._once, request, self._adopt), patience)

    async def _start(self, draft: FlowData, _: StartRequest) -> Flow:
        asked = await self._ask(draft)
        if asked.flow.question:
            return rules.view(await self._intents.keep(asked))
        return await self._send_first(asked.flow)

    async def _adopt(self, draft: FlowData, request: StartRequest) -> Flow:
        adopted = decide(draft, Adopted(validation.token(request.token)), self._context.moment())
        return rules.view(await self._intents.keep(adopted))

    async def _traced(self, command: str, work: Callable[[], Coroutine[Any, Any, Flow]], patience: timedelta) -> Flow:
        try:
            patient = self._recovery.patiently(work, patience)
            return await self._context.tracer.during(patient, "command", command=command)
        except ResetFlowError as error:
            audit.info("%s refused: %s (%s)", command, error.code, self._context.worker)
            raise

    async def _once(self, request: StartRequest, make: Callable[[FlowData, StartRequest], Awaitable[Flow]]) -> Flow:
        """Make a flow, unless there is one with this ref."""
        draft, adopting = self._draft(request), request.token is not None
        if (request.ref is not None or request.id) and (flow := await self._known(draft, adopting=adopting)):
            return flow
        await self._context.ask_guards(
            CommandRequest(
                command="adopt" if adopting else "start",
                user=draft.user,
                origin=None if request.origin is None else request.origin.reveal(),
            )
        )
        try:
            return await make(draft, request)
        except StaleRecord:
            # Another worker made the flow of this ref at the same moment.
            if flow := await self._known(draft, adopting=adopting):
                return flow
            raise

    def _draft(self, request: StartRequest) -> FlowData:
        """Return the data of a flow that is not stored yet."""
        credential, ref = request.credential, request.ref
        if not isinstance(credential, str) or credential not in self._context.broker.credentials:
            raise InvalidInput(f"credential: {self._context.broker.name} can't reset a {printable(credential)}")
        # Kept hidden: if one of the others is refused, this frame is logged.
        user = Secret(validation.user(request.user))
        origin = None if request.origin is None else Secret(validation.name(request.origin, "origin"))
        now = self._context.now()
        return FlowData(
            id=request.id or (new_id() if ref is None else spell(self._lookup("ref", validation.name(ref, "ref")))),
            user=user.reveal(),
            ref=None if ref is None else ref.reveal(),
            credential=Credential(credential),
            transport=self._context.broker.name,
            created_at=now,
            expires_at=now + self._context.policy.flow_lifetime,
            limits=self._context.policy.limits,
            user_key=self._owner_key(user),
            origin_key=None if origin is None else self._owner_key(user, origin),
            listeners=self._context.notifications.names,
            lookups=tuple(dict.fromkeys([self._lookup("tag", validation.name(tag, "tag")) for tag in request.tags])),
        )

    def _owner_key(self, user: Secret, origin: Secret | None = None) -> bytes:
        """Return the key, but for its letter, of the budgets of a user, or of an origin for a user."""
        owner = self._context.broker.canonical_user(user.reveal())
        if origin is not None:
            owner = f"{len(origin.reveal())} {origin.reveal()} {owner}"
        return self._lookup("budgets", owner)[:OWNER_KEY_BYTES]

    def _lookup(self, purpose: str, name: str) -> bytes:
        return self._context.keyring.lookup(self._context.realm, purpose, name)

    async def _known(self, draft: FlowData, *, adopting: bool) -> Flow | None:
        """Return the flow that was made with this ref; its first call is made now if it was not made yet."""
        try:
            known = await self._recovery.resume(draft.id)
        except FlowNotFound:
            return None
        canonical = self._context.broker.canonical_user
        if canonical(known.user) != canonical(draft.user) or known.credential is not draft.credential:
            raise KeyReused("this ref names the reset of another user or credential: choose another one")
        if adopting is not rules.adopted(known):
            how = "adopted, not started" if rules.adopted(known) else "started, not adopted"
            raise KeyReused(f"this ref names a reset that was {how}: choose another one")
        if known.unsent:
            await self._context.ask_guards(CommandRequest(command="start", user=known.user, flow=rules.view(known)))
            with suppress(StaleRecord):
                return await self._send_first(known)
            known = await self._recovery.resume(draft.id)  # another worker was faster
        return rules.view(known)

    async def _send_first(self, flow: FlowData) -> Flow:
        """Make the first call of a flow, which needs nothing of the person."""
        self._recovery.check_broker(flow)
        return await self._intents.send(decide(flow, Intended("start"), self._context.moment()))

    async def _ask(self, draft: FlowData) -> Decision:
        """Ask the broker for the question of a new flow."""
        outcome = await self._context.tasks.run(self._context.broker.challenge(case_of(draft)))
        if isinstance(outcome, NotActed):
            raise not_acted(outcome)
        asked = decide(draft, Asked(outcome, self._decoy(draft.user)), self._context.moment())
        if asked.error:
            raise asked.error
        return asked

    def _decoy(self, user: str) -> str:
        """Return the question for a user whom the broker refuses: always the same; none where nobody is asked any."""
        questions = self._context.policy.decoy_questions
        if not questions:
            return ""
        number = int.from_bytes(self._lookup("decoy", self._context.broker.canonical_user(user)))
        return questions[number % len(questions)]
