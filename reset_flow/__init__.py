"""Carries a password reset through the API of a broker, from request to working password."""

import os as _os
import typing as _typing
from importlib.util import find_spec as _find_spec

if _os.name != "posix" or _find_spec("fcntl") is None:
    raise ImportError(
        "reset_flow needs a POSIX system: Linux, macOS, a BSD, or WSL on Windows. "
        "Promises about files and locks can't be kept elsewhere."
    )

from reset_flow.config import from_env, open_store, open_transport
from reset_flow.domain.capabilities import Capabilities, CodeFormat
from reset_flow.domain.errors import (
    AnswerRejected,
    AppKeyRejected,
    BrokerError,
    BrokerProtocolError,
    BrokerUnavailable,
    CodeRejected,
    CommandVetoed,
    ConfigurationError,
    FlowBusy,
    FlowEnded,
    FlowNotFound,
    HeldElsewhere,
    IllegalCommand,
    InputRejected,
    InvalidInput,
    KeyReused,
    KeyringError,
    LimitReached,
    OutcomeInDoubt,
    PasswordRejected,
    Reason,
    RecordUnreadable,
    ResetFlowError,
    StaleRecord,
    StoreError,
    StoreUnavailable,
    UnknownUser,
    WrongBroker,
)
from reset_flow.domain.flow import Credential, Event, Failure, Flow, NewCredential, PublicFlow, State, Step, Transition
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.password_rules import PasswordRules
from reset_flow.domain.policy import Budget, GuessAlarm, Policy
from reset_flow.domain.secret import Secret
from reset_flow.engine.sweeper import SweepReport
from reset_flow.persistence.key_rotation import ResealReport
from reset_flow.persistence.keyring import Keyring
from reset_flow.ports import (
    Case,
    Clock,
    CommandRequest,
    Guard,
    Listener,
    PasswordCheck,
    Query,
    Record,
    Store,
    Tracer,
    Transport,
    Use,
    UseName,
)
from reset_flow.service import ResetService
from reset_flow.stores.memory import MemoryStore
from reset_flow.transports.etna import EtnaTransport

if _typing.TYPE_CHECKING:
    from reset_flow.stores.postgres.store import PostgresStore
    from reset_flow.stores.redis.store import RedisStore
    from reset_flow.stores.sqlite.store import SQLiteStore
    from reset_flow.transports.allauth import AllauthTransport
    from reset_flow.transports.cognito import CognitoTransport

__all__ = [
    "Accepted",
    "AllauthTransport",
    "AnswerRejected",
    "AppKeyRejected",
    "BrokerError",
    "BrokerProtocolError",
    "BrokerUnavailable",
    "Budget",
    "Capabilities",
    "Case",
    "Cause",
    "Clock",
    "CodeFormat",
    "CodeRejected",
    "CognitoTransport",
    "CommandRequest",
    "CommandVetoed",
    "ConfigurationError",
    "Credential",
    "EtnaTransport",
    "Event",
    "Failure",
    "Flow",
    "FlowBusy",
    "FlowEnded",
    "FlowNotFound",
    "Guard",
    "GuessAlarm",
    "HeldElsewhere",
    "IllegalCommand",
    "InputRejected",
    "InvalidInput",
    "KeyReused",
    "Keyring",
    "KeyringError",
    "LimitReached",
    "Listener",
    "MemoryStore",
    "NewCredential",
    "NotActed",
    "Outcome",
    "OutcomeInDoubt",
    "PasswordCheck",
    "PasswordRejected",
    "PasswordRules",
    "Policy",
    "PostgresStore",
    "PublicFlow",
    "Query",
    "Reason",
    "Record",
    "RecordUnreadable",
    "RedisStore",
    "Rejected",
    "ResealReport",
    "ResetFlowError",
    "ResetService",
    "SQLiteStore",
    "Secret",
    "StaleRecord",
    "State",
    "Step",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "SweepReport",
    "Tracer",
    "Transition",
    "Transport",
    "Unknown",
    "UnknownUser",
    "Use",
    "UseName",
    "WrongBroker",
    "from_env",
    "open_store",
    "open_transport",
]

_LATE = {
    "AllauthTransport": "transports.allauth",
    "CognitoTransport": "transports.cognito",
    "PostgresStore": "stores.postgres",
    "RedisStore": "stores.redis",
    "SQLiteStore": "stores.sqlite",
}


def __getattr__(name: str) -> object:
    """Import a store or a transport when it is first asked for: few embedders need more than one."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    part: object = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    globals()[name] = part
    return part


def __dir__() -> list[str]:
    return [*globals(), *_LATE]
