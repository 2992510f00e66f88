"""``python -m reset_flow.cli``."""

import sys

from reset_flow.cli import main

if __name__ == "__main__":
    sys.exit(main())
