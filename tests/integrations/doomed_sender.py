"""A process that ends a reset, tells a receiver of it, and is killed before it can note that."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.integrations.receiver import Office


async def main() -> None:
    job = json.loads(sys.argv[1])
    async with Office(Path(job["folder"])) as office:
        hook = await office.hook(job["url"], job["secret"])

        async def die_after(event: object) -> None:
            await hook(event)  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGKILL)

        await office.ends(await office.service(crm=die_after))
        await asyncio.sleep(60)


asyncio.run(main())
