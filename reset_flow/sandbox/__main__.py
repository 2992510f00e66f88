"""Run the sandbox: ``python -m reset_flow.sandbox``."""

import sys

from reset_flow.sandbox.command import main

if __name__ == "__main__":
    sys.exit(main())
