"""What erase prints: a line of JSON for each session."""

from datetime import UTC, datetime

from msgspec import Struct


class Receipt(Struct, frozen=True):
    """The content of `events_erased` events of a session is gone. `reason` is what session_deleted says, `at` when.

    That event is at `position` of the log, with `digest` in its chain: `verify --from POSITION:DIGEST` begins there.
    None where the service was asked over HTTP, which does not tell.
    """

    session_id: str
    events_erased: int | None
    reason: str
    at: str
    position: int | None = None
    digest: str | None = None


class WouldGo(Struct, frozen=True):
    """A session that would be erased; `messages` of all its branches."""

    session_id: str
    status: str
    messages: int
    last_accessed: str


def moment_of(at_us: int) -> str:
    """RFC 3339, UTC, as the API writes times."""
    return f"{datetime.fromtimestamp(at_us / 1e6, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
