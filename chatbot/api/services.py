"""The parts of the service that handlers use, composed by chatbot/wiring.py."""

from collections.abc import Awaitable, Callable
from typing import Literal

import structlog
from aiohttp import web
from msgspec import Struct

from chatbot.anchors.anchoring import Anchoring
from chatbot.audit.receipt import Receipt
from chatbot.audit.receipt_signature import sign_receipt
from chatbot.config.settings import Settings
from chatbot.holds.hold_registry import HoldRegistry
from chatbot.keys.key_registry import KeyRegistry
from chatbot.llm.concurrency_limiter import ConcurrencyLimiter
from chatbot.llm.health_monitor import HealthMonitor
from chatbot.llm.provider import Provider
from chatbot.llm.servers.server_pool import ServerPool
from chatbot.observability.log_writer import LogWriter
from chatbot.observability.metrics import LogMetrics, Metrics
from chatbot.observability.metrics_aggregation import MetricsAggregator
from chatbot.sessions.cluster_port import Cluster
from chatbot.sessions.conversations import Conversations
from chatbot.sessions.expiry_timer import ExpiryTimer
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.ports import BackgroundErasures, LiveSessions
from chatbot.sessions.session_queries import SessionQueries
from events.log import EventLog
from projections.port import ProjectionQueries, ProjectionStatus


class Readiness(Struct):
    """The service's stage: starting, ready or draining; readiness.py adds other reasons not to be ready.

    `retiring`: another process takes over the port, so clients are to reconnect. `open_requests`: being answered now.
    """

    state: Literal["starting", "ready", "draining"] = "starting"
    retiring: bool = False
    open_requests: int = 0


class Services(Struct, frozen=True):
    """`new_id` makes message and session ids (random UUIDs), `new_token` request ids. `clock`: Unix microseconds.

    `receipt_key` is the secret key that signs receipts of erasures; None: they are not signed.
    `log_writer` and `metrics_aggregator` are None if the process writes logs synchronously, or is the only worker;
    `servers`, if there is one model server. `has_writer`: as of WriteProbe.
    """

    settings: Settings
    keys: KeyRegistry
    log: EventLog
    runner: ProjectionStatus
    queries: ProjectionQueries
    supervisor: LiveSessions
    expiry: ExpiryTimer
    erasures: BackgroundErasures
    session_queries: SessionQueries
    conversations: Conversations
    feeds: ChannelRegistry
    cluster: Cluster
    metrics: Metrics
    readiness: Readiness
    health: HealthMonitor
    provider: Provider
    limiter: ConcurrencyLimiter
    log_metrics: LogMetrics
    new_id: Callable[[], str]
    new_token: Callable[[], str]
    clock: Callable[[], int]
    logger: structlog.stdlib.BoundLogger
    version: str
    holds: HoldRegistry
    receipt_key: str | None = None
    anchoring: Anchoring = Anchoring()
    log_writer: LogWriter | None = None
    metrics_aggregator: MetricsAggregator | None = None
    has_writer: Callable[[], bool] = lambda: True
    servers: ServerPool | None = None

    def sign_receipt(self, receipt: Receipt) -> Receipt:
        """`receipt` with the service's signature, if it has a key."""
        return receipt if self.receipt_key is None else sign_receipt(receipt, self.receipt_key)

    def suggested_tokens(self, model: str) -> int:
        """The most tokens of a reply that is to end by itself: half of the model's context if its size is known, at
        most chat.max_tokens_ceiling.
        """
        chat = self.settings.chat
        size = chat.context_tokens or self.provider.context_tokens(model)
        return min(max(1, size // 2), chat.max_tokens_ceiling) if size else chat.max_tokens_ceiling


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
# Checks a request and calls its route's handler: the HTTP server calls it in place of aiohttp's middlewares.
SERVE: web.AppKey[Callable[[web.Request, Services], Awaitable[web.StreamResponse]]] = web.AppKey("serve")
