"""What a session needs from outside, handed in by chatbot/wiring.py."""

from collections.abc import Callable
from typing import Protocol

import structlog
from msgspec import Struct

from chatbot.llm.concurrency_limiter import ConcurrencyLimiter
from chatbot.llm.provider import Provider
from chatbot.sessions.actor.generation import ReplyTiming
from chatbot.sessions.cluster_port import Cluster, SingleNode
from chatbot.sessions.disk_reserve import DiskReserve
from chatbot.sessions.domain.decide import Rules
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.feeds.text_cache import TextCache
from events.catalogue import ReplyEnded, ReplyStarted
from events.log import EventLog
from projections.runner import ProjectionRunner
from projections.sqlite.queries import ProjectionQueries


class Limits(Struct, frozen=True):
    """Bounds of the actors, from [sessions] and [stream] of config.toml."""

    live_max: int
    mailbox_max: int
    idle_timeout_s: float
    ask_timeout_s: float
    checkpoint_interval_s: float
    read_page_max: int
    history_max_bytes: int = 8_388_608


class SessionObserver(Protocol):
    """Where what happens in sessions is counted."""

    def actors(self, live: int) -> None: ...

    def refused(self, reason: str) -> None: ...

    def actor_failed(self) -> None: ...

    def reply_closed(self, provider: str, ended: ReplyEnded) -> None: ...

    def reply_ended(
        self, started: ReplyStarted, ended: ReplyEnded, timing: ReplyTiming, request_id: str | None
    ) -> None: ...


class Ports(Struct, frozen=True):
    """`clock` gives the time by which sessions expire, in unix microseconds (see deadline_clock.py); `timer` monotonic
    seconds.
    """

    log: EventLog
    runner: ProjectionRunner
    queries: ProjectionQueries
    provider: Provider
    limiter: ConcurrencyLimiter
    rules: Rules
    limits: Limits
    feeds: ChannelRegistry
    texts: TextCache
    observe: SessionObserver
    clock: Callable[[], int]
    timer: Callable[[], float]
    logger: structlog.stdlib.BoundLogger
    nodes: Cluster = SingleNode()
    reserve: DiskReserve = DiskReserve(None, 0)
