"""Limits of requests: sizes of answers, how many expensive requests run at once, memory of bodies that are arriving."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from chatbot.api.server.connection_limits import StreamLimit
from chatbot.runtime.fair_limit import FairLimit, Owner
from chatbot.runtime.rate_limit import RateLimit
from chatbot.runtime.throttle import DutyCycleThrottle
from chatbot.sessions.domain.rejections import at_limit

IF_MATCH_TAGS_MAX = 32  # in If-Match: more versions of one session than a client has at hand

LIST_MAX = 1000  # sessions or messages in one answer
LIST_MAX_BYTES = 1_048_576  # of sessions in one answer: a thousand with much metadata would be sixteen times as much
DESCRIBED_MAX = 50  # sessions whose metadata is read at once
TITLES_SCANNED_MAX = 1_000  # sessions whose titles one request compares: about twenty milliseconds
TITLE_FILTER_MAX_CHARS = 200
FILTERS_MAX = 8  # metadata filters of a list of sessions

TRAIL_DEFAULT, TRAIL_MAX = 100, 1000  # events of a session in one answer
LOG_DEFAULT, LOG_MAX = 1000, 10_000  # events of the log in one answer
SCANNED_MAX = 20_000  # events that a filtered request looks at: their envelopes take about 40 ms
CHECKPOINT_MAX_CHARS = 4_096  # in the query of a report; one has about 300
AFTER_MAX = 10**18 - 1  # no more digits than SQLite counts

EXPORTS_MAX = 64  # at once: each holds the outline of every message in memory
VERIFICATIONS_MAX = 2  # at once: they share the small part of the time that THROTTLE leaves to expensive requests
ERASURES_MAX = 4  # requests that erase many sessions, at once
BODY_UNCOUNTED_BYTES = 65_536  # a body of this size fits in the connection's own buffer

EXPORT_LIMIT: web.AppKey[StreamLimit] = web.AppKey("exports", StreamLimit)
ERASURE_LIMIT: web.AppKey[StreamLimit] = web.AppKey("erasures", StreamLimit)
VERIFICATION_LIMIT: web.AppKey[StreamLimit] = web.AppKey("verifications", StreamLimit)
WITNESS_RATE: web.AppKey[RateLimit] = web.AppKey("witness_rate", RateLimit)
# Shared by verifications, event histories and exports, so that together they leave most of the time to chat.
THROTTLE: web.AppKey[DutyCycleThrottle] = web.AppKey("throttle", DutyCycleThrottle)


class BodyBudget:
    """Bounds the memory of all request bodies that are arriving, by the sizes in their headers, and shares it between
    owners as a FairLimit does.
    """

    def __init__(self, bytes_max: int) -> None:
        self._limit = FairLimit(bytes_max)

    @property
    def reserved_bytes(self) -> int:
        return self._limit.total

    @contextmanager
    def reserve(self, size: int, owner: Owner) -> Iterator[None]:
        """Reserve `size` bytes until the end of the block. A small body needs none; one large one of each owner always
        fits.

        Raises Overloaded, OverShare if other bodies have reserved too much.
        """
        if size <= BODY_UNCOUNTED_BYTES:
            yield
            return
        excess = self._limit.excess(owner, size)
        if excess is not None:
            raise at_limit(excess, "too many large request bodies are arriving")
        self._limit.add(owner, size)
        try:
            yield
        finally:
            self._limit.remove(owner, size)


BODIES: web.AppKey[BodyBudget] = web.AppKey("bodies", BodyBudget)
