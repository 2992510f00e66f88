"""What the onboardings of the demo have in common, whichever engine runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from reset_flow.config import from_env

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AsyncExitStack

    from reset_flow.service import ResetService

    Commands: TypeAlias = "Mapping[str, Callable[..., Awaitable[dict[str, Any]]]]"

LISTENER = "engine"
"""Its name, with which workers start resets. The page has its code."""


class Job(TypedDict):
    """
    What a process of the demo works with.

    Attributes:
        service: Settings, as `from_env` takes them.

        engine: `dbos` or `restate`.

        address: Of the database of DBOS, or of Restate's ingress.

        port: Where handlers for Restate are served.

        people: Logins by what the engine calls these people. No engine gets them.

        welcomed: The file that onboarded people are written to.
    """

    service: dict[str, str]
    engine: str
    address: str
    port: int
    people: dict[str, str]
    welcomed: str


async def open_worker(job: Job, stack: AsyncExitStack) -> tuple[ResetService, Callable[[str], Awaitable[str]]]:
    """Return the service of a worker, and its look-up of logins."""

    async def login_of(user_ref: str) -> str:
        return job["people"][user_ref]

    return await stack.enter_async_context(from_env(job["service"], listeners={LISTENER: None})), login_of


def welcome(user_ref: str, file: str) -> None:
    """Do what an onboarding does once its person has a password."""
    with Path(file).open("a") as welcomed:
        welcomed.write(f"{user_ref}\n")
