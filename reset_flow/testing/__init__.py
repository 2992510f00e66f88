"""
For people who embed the library: a clock that stands still, a broker that does as told, what every store and every
transport must do, a proxy that spoils requests, and a search for what must not be written down.
"""

from reset_flow.testing.checked_reset import Counts, Provider
from reset_flow.testing.clock import FrozenClock
from reset_flow.testing.contract import StoreContract
from reset_flow.testing.dumps import dump
from reset_flow.testing.fault_proxy import Fault, FaultProxy
from reset_flow.testing.leaks import Leak, LeakScanner
from reset_flow.testing.records import make_record, next_version
from reset_flow.testing.refusal import refused
from reset_flow.testing.shown import shown_by, shown_by_error, traceback_of
from reset_flow.testing.transport import ScriptedTransport
from reset_flow.testing.transport_contract import TransportContract
from reset_flow.testing.witness import Witness

__all__ = [
    "Counts",
    "Fault",
    "FaultProxy",
    "FrozenClock",
    "Leak",
    "LeakScanner",
    "Provider",
    "ScriptedTransport",
    "StoreContract",
    "TransportContract",
    "Witness",
    "dump",
    "make_record",
    "next_version",
    "refused",
    "shown_by",
    "shown_by_error",
    "traceback_of",
]
