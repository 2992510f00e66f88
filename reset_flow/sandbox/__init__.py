"""
A broker to try against: the documented API over loopback, with an inbox, a log of every call, and faults on order.

It imports nothing of the library, so that it can disagree with it. Its users, passwords and codes are toys.
"""

from reset_flow.sandbox.command import serve
from reset_flow.sandbox.server import Sandbox
from reset_flow.sandbox.settings import Settings

__all__ = ["Sandbox", "Settings", "serve"]
