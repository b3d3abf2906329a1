"""How much more the nightly run tries: NIGHTLY_TIMES=10 makes ten times as many examples of each property."""

import os

TIMES = int(os.environ.get("NIGHTLY_TIMES", "1"))


def scaled(count: int) -> int:
    """A number of examples, or the seconds that they may take: `count` in the usual run."""
    return count * TIMES
