"""
A broker for trials and tests: the documented API on loopback, with an inbox, a log of every call, and faults on demand.

It imports nothing of the library, so that the two can disagree. Its users, passwords and codes are toys.
"""

from reset_flow.sandbox.command import serve
from reset_flow.sandbox.server import Sandbox
from reset_flow.sandbox.settings import Settings

__all__ = ["Sandbox", "Settings", "serve"]
