"""A worker whose store can be read: it seals bodies by leaving them as they are."""

import sys

from reset_flow.cli import demo_worker
from reset_flow.persistence.keyring import Keyring


def main() -> int:
    Keyring.seal = lambda _, __, ___, body, ____: body  # type: ignore[method-assign,assignment]
    Keyring.open = lambda _, __, ___, sealed, ____: sealed  # type: ignore[method-assign,assignment]
    return demo_worker.main()


if __name__ == "__main__":
    sys.exit(main())
