"""Startup check: a service without API keys must not expose sessions that were recorded with keys, nor start where the
settings require a key.
"""

from contextlib import suppress

from chatbot.config.sections.auth_settings import AuthSettings
from events.log import EventLog
from projections.errors import ProjectionError
from projections.port import ProjectionQueries

SAMPLED_EVENTS = 1000  # events at each end of the log, read while the projections are rebuilt: milliseconds
STREAMS_MAX = 20  # of those, streams whose first event is read


class KeysMissing(Exception):
    """The service must not start without an API key."""


class KeyRequired(KeysMissing):
    """auth.require_keys is set."""

    def __init__(self) -> None:
        super().__init__(
            "auth.require_keys is set, and there is no API key: set CHATBOT_API_KEYS, or make one with `chatbot key"
            " add`"
        )


class OwnersWithoutKeys(KeysMissing):
    """Sessions belong to API keys, and there is no key, as after a lost environment variable."""

    def __init__(self) -> None:
        super().__init__(
            "sessions in this log belong to API keys, but none is configured, so everyone could read and delete them:"
            " configure the keys (CHATBOT_API_KEYS), make one (`chatbot key add`), or let everyone in with"
            " auth.allow_anonymous = true (CHATBOT_AUTH_ALLOW_ANONYMOUS)"
        )


async def check_owners(log: EventLog, queries: ProjectionQueries, auth: AuthSettings, *, has_keys: bool) -> None:
    """Raises KeyRequired, OwnersWithoutKeys. `has_keys`: a key is configured, or one was recorded.

    The projections know every owner. During a rebuild only the first and last events of the log are checked: call
    again afterwards.
    """
    if has_keys:
        return
    if auth.require_keys:
        raise KeyRequired
    if auth.allow_anonymous:
        return
    with suppress(ProjectionError):
        if await queries.has_owners():
            raise OwnersWithoutKeys
    last = log.head().position
    for after in {0, max(last - SAMPLED_EVENTS, 0)}:
        recorded = await log.read_all(after=after, limit=SAMPLED_EVENTS)
        # A key may also have written to sessions without an owner: the first event has the owner.
        written = dict.fromkeys(one.stream_id for one in recorded if one.metadata.actor is not None)
        firsts = [(await log.read(stream_id, limit=1))[0] for stream_id in list(written)[:STREAMS_MAX]]
        if any(getattr(one.event, "owner", None) is not None for one in (*recorded, *firsts)):
            raise OwnersWithoutKeys
