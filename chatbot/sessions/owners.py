"""Keeps a service without API keys from opening what was recorded with keys to everybody."""

from contextlib import suppress

from chatbot.config.edge import AuthSettings
from events.log import EventLog
from events.record import RecordedEvent
from projections.errors import ProjectionError
from projections.queries import Queries

LOOKED_AT = 1000  # events at each end of the log, which tell while the projections cannot: milliseconds


class OwnersWithoutKeys(Exception):
    """Sessions belong to API keys, and no key is configured: as after a lost environment variable."""

    def __init__(self) -> None:
        super().__init__(
            "sessions in this log belong to API keys, but none is configured, so everyone could read and delete them:"
            " configure the keys (CHATBOT_API_KEYS), or let everyone in with auth.allow_anonymous = true"
            " (CHATBOT_AUTH_ALLOW_ANONYMOUS)"
        )


async def check_owners(log: EventLog, queries: Queries, auth: AuthSettings) -> None:
    """Raises OwnersWithoutKeys.

    The projections know every owner at once; while they are rebuilt the first and last events of the log have to do, so
    ask again after that.
    """
    if auth.keys or auth.allow_anonymous:
        return
    with suppress(ProjectionError):
        if await queries.has_owners():
            raise OwnersWithoutKeys
    last = log.head().position
    for after in {0, max(last - LOOKED_AT, 0)}:
        if any(map(_tells_of_keys, await log.read_all(after=after, limit=LOOKED_AT))):
            raise OwnersWithoutKeys


def _tells_of_keys(recorded: RecordedEvent) -> bool:
    return recorded.metadata.actor is not None or getattr(recorded.event, "owner", None) is not None
