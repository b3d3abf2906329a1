"""The ports of the sessions: what they need from outside, handed in by chatbot/wiring.py, and what they offer."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog
from msgspec import Struct, field

from chatbot.holds.hold_state import HoldCheck, NoHolds
from chatbot.llm.concurrency_limiter import ConcurrencyLimiter
from chatbot.llm.provider import Provider
from chatbot.sessions.actor.mailbox import CommandResult
from chatbot.sessions.cluster_port import Cluster, SingleNode
from chatbot.sessions.digest_cache import DigestCache
from chatbot.sessions.disk_reserve import DiskReserve
from chatbot.sessions.domain.commands import Caller, Command
from chatbot.sessions.domain.state import Rules
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.feeds.text_cache import TextCache
from chatbot.sessions.media_memory import MEDIA_MEMORY_BYTES, MediaMemory
from chatbot.sessions.replies.reply import Reply, ReplyTiming
from events.catalogue import ReplyEnded, ReplyStarted
from events.log import EventLog
from events.media import MediaStore
from projections.port import ProjectionQueries, Projections


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
    """Counts what happens in sessions, for metrics."""

    def actors(self, live: int) -> None: ...

    def refused(self, reason: str) -> None: ...

    def actor_failed(self) -> None: ...

    def erased_early(self) -> None: ...

    def erasure_held(self) -> None: ...

    def reply_closed(self, provider: str, ended: ReplyEnded) -> None: ...

    def reply_ended(
        self, started: ReplyStarted, ended: ReplyEnded, timing: ReplyTiming, request_id: str | None
    ) -> None: ...


class AskSession(Protocol):
    """Sends a command to a session's actor and waits for the result."""

    async def __call__(
        self,
        session_id: str,
        command: Command,
        caller: Caller,
        *,
        if_versions: frozenset[int] | None = None,
        cause: str | None = None,
    ) -> CommandResult:
        """The result, once what the command recorded is on disk.

        `if_versions`: refuse at any other version of the session. `cause` is recorded in the events' metadata. The
        command is carried out even if the caller is cancelled meanwhile. Raises Rejection, LogUnavailable,
        LlmOverloaded, ActorFailed.
        """
        ...


class LiveSessions(Protocol):
    """The live sessions of this process (`actor/supervisor.py`), as the HTTP API and the cluster use them."""

    @property
    def draining(self) -> bool:
        """Whether the service is shutting down: no new replies."""
        ...

    @property
    def ask(self) -> AskSession: ...

    def replies(self, session_id: str) -> dict[str, Reply]:
        """The session's replies that run or are queued in this process, by id."""
        ...

    def running_reply(self, session_id: str) -> Reply | None:
        """The session's reply that has started and not ended: this process's own, or the mirror of another node's."""
        ...

    def on_remote_append(self, session_id: str, version: int) -> None:
        """Another node may have recorded up to `version` of this session."""
        ...

    def count_replies(self) -> int:
        """Replies that run or are queued in this process."""
        ...

    async def recover(self) -> int:
        """Crash recovery: close the replies that were left open. Returns in how many sessions."""
        ...

    async def drain(self, grace_s: float) -> None:
        """Graceful shutdown: start no new replies; running ones get `grace_s` and are then recorded as interrupted."""
        ...


class BackgroundErasures(Protocol):
    """The erasures that go on after DELETE was answered (`erasure_job.py`). `pending` counts those left."""

    @property
    def pending(self) -> int: ...

    def notify(self) -> None:
        """An erasure has begun."""
        ...


class Holds(Protocol):
    """Legal holds (`chatbot/holds`). Each answer is that of the log at some moment after the call began."""

    async def version(self) -> int:
        """Another number after each hold and each release. Raises LogUnavailable."""
        ...

    async def find(self, session_id: str, owner: str | None, metadata: Mapping[str, Any]) -> HoldCheck:
        """Whether a hold covers the session: by its id, its owner, its `metadata`, or metadata that it had earlier.

        Nothing of a held session is erased: give `unchanged` of the answer to the log, which refuses the erasure with
        VersionConflict if a hold was added meanwhile. Raises LogUnavailable.
        """
        ...


class ReplyLog(Protocol):
    """The part of the log that the task of a reply needs: what every process over it can read, and files."""

    @property
    def media(self) -> MediaStore: ...

    async def admits(self, versions: Mapping[str, int]) -> bool:
        """As EventLog.admits."""
        ...


class ReplyTaskPorts(Protocol):
    """The part of `Ports` that the task of a running reply needs: the model, files, and no events."""

    @property
    def log(self) -> ReplyLog: ...

    @property
    def media_memory(self) -> MediaMemory: ...

    @property
    def provider(self) -> Provider: ...

    @property
    def limiter(self) -> ConcurrencyLimiter: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def timer(self) -> Callable[[], float]: ...

    @property
    def logger(self) -> structlog.stdlib.BoundLogger: ...


class ExpiryPorts(Protocol):
    """The part of `Ports` that the expiry timer needs: deadlines, and no texts."""

    @property
    def log(self) -> EventLog: ...

    @property
    def runner(self) -> Projections: ...

    @property
    def queries(self) -> ProjectionQueries: ...

    @property
    def clock(self) -> Callable[[], int]: ...

    @property
    def logger(self) -> structlog.stdlib.BoundLogger: ...


class RetentionPorts(ExpiryPorts, Protocol):
    """The part of `Ports` that the expiry timer needs where it erases, too."""

    @property
    def holds(self) -> Holds: ...


class QueryPorts(ExpiryPorts, Protocol):
    """The part of `Ports` that reads need: the log, the read model, texts, and no model."""

    @property
    def texts(self) -> TextCache: ...

    @property
    def holds(self) -> Holds: ...

    @property
    def rules(self) -> Rules: ...

    @property
    def limits(self) -> Limits: ...


class Ports(Struct, frozen=True):
    """`clock` gives the time by which sessions expire, in unix microseconds (see runtime/clock.py); `timer` monotonic
    seconds. `notify_deadline` is told the deadline of a session whose replies have all ended.
    """

    log: EventLog
    runner: Projections
    queries: ProjectionQueries
    provider: Provider
    limiter: ConcurrencyLimiter
    rules: Rules
    limits: Limits
    feeds: ChannelRegistry
    texts: TextCache
    observer: SessionObserver
    clock: Callable[[], int]
    timer: Callable[[], float]
    logger: structlog.stdlib.BoundLogger
    cluster: Cluster = SingleNode()
    reserve: DiskReserve = DiskReserve(None, 0)
    holds: Holds = NoHolds()
    media_memory: MediaMemory = field(default_factory=lambda: MediaMemory(MEDIA_MEMORY_BYTES))
    digests: DigestCache = field(default_factory=DigestCache)
    notify_deadline: Callable[[int], None] = lambda _deadline_us: None
