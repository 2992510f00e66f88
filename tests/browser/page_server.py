"""
`reset-flow serve` with a policy, looks and limits of its own: `page_server.py SETTINGS`, where the settings are JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from reset_flow import Budget, EtnaTransport, Keyring, Policy, ResetService, open_store
from reset_flow.web import Limits, Look
from reset_flow.web.server import serve


async def main(settings: dict[str, Any]) -> None:
    policy: dict[str, Any] = {
        name: timedelta(seconds=value) if isinstance(value, float) else value
        for name, value in settings.get("policy", {}).items()
    }
    transport = EtnaTransport(settings["broker"], "sandbox", name="broker", deadline=timedelta(seconds=3))
    service = ResetService(
        transport,
        open_store(settings["store"]),
        Keyring.load_or_create(settings["keys"]),
        policy=Policy(**policy),
        clock=lambda: datetime.now(UTC) + timedelta(seconds=settings.get("ahead", 0)),
    )
    many = Budget(100_000, timedelta(minutes=1))
    limits = Limits(**{"requests": many, "starts": many, **settings.get("limits", {})})
    await serve(
        service,
        port=settings["port"],
        look=Look(**settings.get("look", {})),
        limits=limits,
        told=lambda address: print(address, flush=True),  # noqa: T201 - the test waits for it
    )


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
