"""
Everything that can come out of the library.

::

    ResetFlowError
    ├── InvalidInput            a name, tag, key or setting that can't be one; nothing was done
    │   └── ConfigurationError  at construction, before there is a flow
    ├── FlowNotFound
    ├── FlowEnded
    ├── IllegalCommand
    ├── FlowBusy
    ├── KeyReused
    ├── CommandVetoed
    │   └── HeldElsewhere
    ├── LimitReached
    ├── InputRejected           the input of a person was refused
    │   ├── UnknownUser
    │   ├── AnswerRejected
    │   ├── CodeRejected
    │   └── PasswordRejected
    ├── BrokerError
    │   ├── BrokerUnavailable
    │   ├── OutcomeInDoubt
    │   ├── BrokerProtocolError
    │   ├── AppKeyRejected
    │   └── WrongBroker
    ├── StoreError
    │   ├── StoreUnavailable
    │   ├── StaleRecord
    │   └── RecordUnreadable
    └── KeyringError            keys that are missing, open to others, broken, of another realm or still needed

Each has a stable `code`, and says by `retryable` and `retry_after` whether and when the same call may succeed. The
error of a command that did not move its flow carries it, as it now stands, as `flow`. No message holds a secret or a
login.
"""

from __future__ import annotations

import copyreg
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.text import duration, printable

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow, State

LIMITS = {
    "answers_per_user": "wrong answers for this user",
    "codes_per_origin": "wrong codes for this user from one origin",
    "codes_per_user": "wrong codes for this user",
    "guess_alarm": "wrong codes of all users together",
    "resend_cooldown": "one code at a time",
    "resends": "codes sent for one flow",
    "starts_per_origin": "resets of this user from one origin",
    "starts_per_user": "resets of this user",
    "uses": "uses of a budget",
}
"""What each limit is called in messages."""


class ResetFlowError(Exception):
    """
    The root of all errors.

    Attributes:
        code: Stable name of the kind of error.

        retryable: Whether the same call may succeed later.

        retry_after: How long to wait before it is worth another try; `None` where waiting does not help.

        flow: The flow as it now stands, where there is one.
    """

    code = "reset_flow"
    retryable = False
    retry_after: timedelta | None = None
    flow: Flow | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class, which makes its message of other arguments; and without the flow, which has a login.
        kept = {name: value for name, value in vars(self).items() if name != "flow"}
        return copyreg.__newobj__, (type(self), *self.args), kept  # type: ignore[attr-defined] # typeshed lacks it

    def with_flow(self, flow: Flow | None) -> ResetFlowError:
        """Attach the flow as it now stands, and return this error."""
        self.flow = flow
        return self


class InvalidInput(ResetFlowError, ValueError):
    """An argument that can't be used. Nothing was done."""

    code = "invalid_input"


class ConfigurationError(InvalidInput):
    """A service, store or transport that can't be made of these settings."""

    code = "configuration"


class FlowNotFound(ResetFlowError):
    """No flow of this realm has that id."""

    code = "flow_not_found"

    def __init__(self, flow_id: str) -> None:
        super().__init__(f"there is no flow {printable(flow_id)!r}: start one, or look the id up")
        self.flow_id = flow_id


class FlowEnded(ResetFlowError):
    """The flow is over; `flow.state` and `flow.failure` say how."""

    code = "flow_ended"

    def __init__(self, flow_id: str, how: str) -> None:
        super().__init__(f"flow {flow_id} has ended ({how}): start another one")
        self.flow_id = flow_id


class IllegalCommand(ResetFlowError):
    """The command can't come now. Nothing was sent and nothing was counted."""

    code = "illegal_command"

    def __init__(self, flow_id: str, command: str, state: State, allowed: tuple[str, ...]) -> None:
        super().__init__(f"flow {flow_id} is {state}: {command} can't come now, {' or '.join(allowed)} can")
        self.flow_id = flow_id
        self.command = command
        self.state = state
        self.allowed = allowed


class FlowBusy(ResetFlowError):
    """
    Another command of the same flow is under way. Ask again when it is done.

    Attributes:
        retry_after: By then it is over, even if the process died that began it; mostly it is sooner.
    """

    code = "flow_busy"
    retryable = True
    retry_after: timedelta

    def __init__(self, flow_id: str, command: str, retry_after: timedelta) -> None:
        until = duration(retry_after)
        super().__init__(f"flow {flow_id} is busy with {command}: wait until it is done, {until} at the most")
        self.flow_id = flow_id
        self.command = command
        self.retry_after = retry_after


class KeyReused(ResetFlowError):
    """The `ref` or `key` belongs to another reset or command."""

    code = "key_reused"


class CommandVetoed(ResetFlowError):
    """Raised by a guard of the embedder's; nothing was sent."""

    code = "command_vetoed"


class HeldElsewhere(CommandVetoed):
    """The code of the flow was given by another holder, who alone may go on with it. Nothing was sent."""

    code = "held_elsewhere"

    def __init__(self, flow_id: str) -> None:
        super().__init__(f"flow {flow_id} goes on where its code was typed: go on there, or start another one")
        self.flow_id = flow_id


class LimitReached(ResetFlowError):
    """
    Too many, or too soon.

    Attributes:
        limit: Which limit: the name of a field of `Policy`, such as `starts_per_user`; `uses` where a store raises it.

        retry_after: How long to wait; `None` when waiting does not help this flow.

        keys: The keys of the budgets that were refused, where a store raises it.
    """

    code = "limit_reached"

    def __init__(self, limit: str, retry_after: timedelta | None = None, *, keys: tuple[bytes, ...] = ()) -> None:
        when = "" if retry_after is None else f": try again in {duration(retry_after)}"
        super().__init__(f"the limit of {LIMITS.get(limit, limit)} is reached{when}")
        self.limit = limit
        self.retry_after = retry_after
        self.keys = keys
        self.retryable = retry_after is not None


@attrs.frozen
class Reason:
    """
    One reason why an input was refused. Its `str` is the text.

    Attributes:
        code: Stable name of a reason of the library's own; `None`: these are words of the broker's or of a check's.

        text: A lower-case clause that tells the person what to do.

        number: The number in a text of the library's own, for those who translate it.
    """

    code: str | None
    text: str
    number: int | None = None

    def __str__(self) -> str:
        return self.text


class InputRejected(ResetFlowError):
    """
    The input of a person was refused.

    Attributes:
        reasons: What is wrong with it, each bounded and free of control characters.

        sent: Whether the broker was asked. Where not, no attempt was counted.
    """

    code = "input_rejected"
    noun = "input"

    def __init__(self, *reasons: Reason | str, sent: bool = True) -> None:
        words = "; ".join(map(str, reasons))
        said = f"the broker refused the {self.noun}{words and ': '}{words}"
        super().__init__(said if sent else f"the {self.noun} was not sent: {words}")
        self.reasons = tuple([each if isinstance(each, Reason) else Reason(None, each) for each in reasons])
        self.sent = sent


class UnknownUser(InputRejected):
    """The broker does not know the user, or will not reset this one."""

    code = "unknown_user"
    noun = "user"


class AnswerRejected(InputRejected):
    """The answer is wrong."""

    code = "answer_rejected"
    noun = "answer"


class CodeRejected(InputRejected):
    """The code is wrong, spent, too old, or can't be one."""

    code = "code_rejected"
    noun = "code"


class PasswordRejected(InputRejected):
    """The new password or PIN is not good enough, or the token is spent."""

    code = "password_rejected"
    noun = "password"


class BrokerError(ResetFlowError):
    """The broker did not do as asked."""

    code = "broker"


class BrokerUnavailable(BrokerError):
    """
    The broker can't be reached or asks to be called less often. Nothing happened; only a throttled start stays counted.

    Attributes:
        retry_after: When the broker asks to be asked again; five seconds where it does not say.
    """

    code = "broker_unavailable"
    retryable = True

    def __init__(self, detail: str = "", retry_after: timedelta | None = None) -> None:
        super().__init__(f"the broker can't be reached, and nothing happened: {detail or 'no reply'}")
        self.retry_after = timedelta(seconds=5) if retry_after is None else retry_after


class OutcomeInDoubt(BrokerError):
    """The broker may have acted; nobody can know. `flow` tells which commands may come now."""

    code = "outcome_in_doubt"


class BrokerProtocolError(BrokerError):
    """The broker answered in a way that its documents do not have. Nothing is known to have happened."""

    code = "broker_protocol"


class AppKeyRejected(BrokerError):
    """
    The broker refuses the transport's own credentials (an app key, a client id), or our settings. Nothing happened:
    check them and the broker's URL.
    """

    code = "app_key_rejected"


class WrongBroker(BrokerError):
    """The flow belongs to another transport than this service has. Nothing was sent; any service may cancel it."""

    code = "wrong_broker"


class StoreError(ResetFlowError):
    """The store did not do as asked."""

    code = "store"


class StoreUnavailable(StoreError):
    """The store can't be reached, is full or locked. Where this is raised before a call, no call was made."""

    code = "store_unavailable"
    retryable = True
    retry_after = timedelta(seconds=1)


class StaleRecord(StoreError):
    """Another worker saved this flow after it was loaded."""

    code = "stale_record"
    retryable = True
    retry_after = timedelta(0)

    def __init__(self, flow_id: str, version: int) -> None:
        super().__init__(f"flow {flow_id} was saved by somebody else: version {version} can't be")
        self.flow_id = flow_id
        self.version = version


class RecordUnreadable(StoreError):
    """The record was changed, belongs elsewhere, or its key is not in the ring. It is left as it is."""

    code = "record_unreadable"

    def __init__(self, flow_id: str, why: str) -> None:
        super().__init__(f"the record of flow {printable(flow_id)} can't be read: {why}")
        self.flow_id = flow_id


class KeyringError(ResetFlowError):
    """Keys whose file is missing, open to others or broken; that a realm is not used with; or that are still needed."""

    code = "keyring"
