"""A process of the demo that writes into its log whose password is reset."""

import asyncio
import sys

from reset_flow.cli import engine_worker

if __name__ == "__main__":
    sys.stderr.write("for robert.zak\n")
    sys.stderr.flush()
    asyncio.run(engine_worker.main(sys.argv[1]))
