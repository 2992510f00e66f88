"""For people who embed the library: a clock that stands still, a broker that does as told, what every store must do."""

from reset_flow.testing.clock import FrozenClock
from reset_flow.testing.contract import StoreContract
from reset_flow.testing.records import make_record, next_version
from reset_flow.testing.refusal import refused
from reset_flow.testing.transport import ScriptedTransport

__all__ = ["FrozenClock", "ScriptedTransport", "StoreContract", "make_record", "next_version", "refused"]
