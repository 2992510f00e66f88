"""Faults on demand, and the calls to which they apply."""

import base64
import binascii
import random
from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import ge, gt, in_, instance_of, le, optional

ROUTES = ("request", "challenge", "exchange", "update", "log_in", "change_pin", "images", "unknown")

ACTS: Mapping[str, bool | None] = {
    "cut_after": True,
    "drop_after": True,
    "drop_before": False,
    "hang_after": True,
    "hang_before": False,
    "latency": True,
    "latency_after": True,
    "raw": None,
    "redirect": None,
    "reset": None,
    "status": None,
}
"""Whether the broker acts under a fault; None if the fault's ``act`` decides."""

STATUSES: Mapping[str, int] = {"raw": 200, "redirect": 302, "status": 503}


def _status_of(fault: "Fault") -> int:
    return STATUSES.get(fault.name, 200)


def _pairs(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(value)) for name, value in headers.items())


def _bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body


@attrs.frozen(kw_only=True)
class Fault:
    """
    One fault that was ordered.

    Attributes:
        route: The route to which it applies, or ``*``.

        name: ``latency`` (wait, act, reply), ``latency_after`` (act, wait, reply), ``drop_before`` and ``drop_after``
            (close without a reply), ``cut_after`` (close in the middle of the reply), ``hang_before`` and
            ``hang_after`` (never reply), ``status``, ``raw``, ``redirect`` (another reply), ``reset`` (TCP RST).

        times: The number of calls to which it applies; None: all, until the faults are cleared.

        user: Apply it only to calls that concern this login.

        every: Apply it only to every n-th call that matches.

        probability: Chance that it applies to a call, drawn from a generator seeded with ``seed``.

        seconds: Wait before the fault (``latency_after``: after the action), for every kind of fault.

        act: Whether the broker acts, if the name leaves it open.

        status: HTTP status of ``status`` (default 503), ``raw`` (200) and ``redirect`` (302).

        headers: Further headers of these three, such as ``Retry-After``.

        body: Body of these three.

        location: Target of ``redirect``.
    """

    route: str = attrs.field(validator=in_((*ROUTES, "*")))
    name: str = attrs.field(validator=in_(tuple(ACTS)))
    times: int | None = attrs.field(default=1)
    user: str | None = attrs.field(default=None, validator=optional(instance_of(str)))
    every: int = attrs.field(default=1, validator=[instance_of(int), ge(1)])
    probability: float = attrs.field(default=1.0, validator=[instance_of((int, float)), gt(0), le(1)])
    seed: int | None = attrs.field(default=None, validator=optional(instance_of(int)))
    seconds: float = attrs.field(default=0.0, validator=[instance_of((int, float)), ge(0)])
    act: bool = attrs.field(default=False, validator=instance_of(bool))
    status: int = attrs.field(
        default=attrs.Factory(_status_of, takes_self=True),
        validator=[instance_of(int), ge(200), le(999)],
    )
    headers: tuple[tuple[str, str], ...] = attrs.field(default=attrs.Factory(dict), converter=_pairs)
    body: bytes = attrs.field(default=b"", converter=_bytes)
    content_type: str = attrs.field(default="application/json", validator=instance_of(str))
    location: str = attrs.field(default="", validator=instance_of(str))

    @times.validator
    def _check_times(self, _: Any, times: Any) -> None:
        if times is not None and (not isinstance(times, int) or times < 1):
            raise ValueError("times is a number above 0, or null")

    def __attrs_post_init__(self) -> None:
        """Refuse a fault that contradicts itself."""
        if self.act and ACTS[self.name] is False:
            raise ValueError(f"{self.name} never acts")

    @property
    def acts(self) -> bool:
        """Whether the broker acts under this fault."""
        fixed = ACTS[self.name]
        return self.act if fixed is None else fixed

    def as_json(self) -> dict[str, Any]:
        """Return the fault in the form that ``/sandbox/faults`` lists and accepts."""
        order = attrs.asdict(self)
        body = base64.b64encode(order.pop("body")).decode()
        return {"fault": order.pop("name"), **order, "headers": dict(self.headers), "body_base64": body}

    @classmethod
    def from_json(cls, order: Any) -> "Fault":
        """Return the fault that a JSON object describes; raise ``ValueError`` or ``TypeError`` if it is invalid."""
        if not isinstance(order, dict):
            raise TypeError("a fault is a JSON object")
        arguments = {("name" if key == "fault" else key): value for key, value in order.items() if key != "name"}
        if "body_base64" in arguments:
            arguments["body"] = _decoded(arguments.pop("body_base64"))
        if unknown := arguments.keys() - {field.name for field in attrs.fields(cls)}:
            raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
        if not {"route", "name"} <= arguments.keys():
            raise ValueError("a fault needs a route and a fault")
        if not isinstance(arguments.get("headers", {}), dict):
            raise TypeError("headers are a JSON object")
        if not isinstance(arguments.get("body", ""), str | bytes):
            raise TypeError("a body is text")
        return cls(**arguments)


def _decoded(body: Any) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except (TypeError, binascii.Error) as error:
        raise ValueError("body_base64 is no base64") from error


class _Order:
    """A queued fault, with the number of calls that are left."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.left = fault.times
        self._seen = 0
        self._chance = random.Random(fault.seed)  # noqa: S311 - a test run must be repeatable

    def applies_to(self, route: str, user: str | None) -> bool:
        """Return True if the fault applies to a call that has arrived, and count it."""
        fault = self.fault
        if self.left == 0 or fault.route not in {"*", route} or fault.user not in {None, user}:
            return False
        self._seen += 1
        if self._seen % fault.every or self._chance.random() >= fault.probability:
            return False
        if self.left is not None:
            self.left -= 1
        return True


class FaultQueue:
    """The faults, oldest first. To a call, the first that matches applies, and no other."""

    def __init__(self) -> None:
        self._orders: list[_Order] = []

    def add(self, fault: Fault) -> None:
        """Queue a fault behind the others."""
        self._orders.append(_Order(fault))

    def take(self, route: str, user: str | None) -> Fault | None:
        """Return the fault that applies to this call, if any."""
        for order in self._orders:
            if order.applies_to(route, user):
                if order.left == 0:
                    self._orders.remove(order)
                return order.fault
        return None

    def clear(self) -> None:
        """Remove all faults."""
        self._orders.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """Return the queued faults, with the remaining calls as ``times``."""
        return [{**order.fault.as_json(), "times": order.left} for order in self._orders]
