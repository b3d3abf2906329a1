"""What the handlers work with, put together by chatbot/wiring.py."""

from collections.abc import Callable

import structlog
from aiohttp import web
from msgspec import Struct

from chatbot.api.open_streams import OpenStreams
from chatbot.api.pouring import Pourer
from chatbot.config.settings import Settings
from chatbot.llm.gate import Gate
from chatbot.llm.health import HealthMonitor
from chatbot.llm.protocol import Provider
from chatbot.log_writer import LogWriter
from chatbot.metrics import Metrics
from chatbot.observers import LogWatch
from chatbot.sessions.erasures import Erasures
from chatbot.sessions.expiry import ExpiryTimer
from chatbot.sessions.feeds import Feeds
from chatbot.sessions.nodes import Nodes
from chatbot.sessions.reading import Reader
from chatbot.sessions.supervisor import Supervisor
from chatbot.workers.scrape import Scrape
from events.log import EventLog
from projections.queries import Queries
from projections.runner import ProjectionRunner


class Readiness(Struct):
    """Where the service is in its life: starting, ready or draining; readiness.py adds what else can be in the way.

    `retiring`: another process serves on at the same port, so that clients are to connect again. `answering`: requests
    that are being answered.
    """

    state: str = "starting"
    retiring: bool = False
    answering: int = 0


class Services(Struct, frozen=True):
    """`new_id` makes message and session ids (random UUIDs), `new_token` request ids;
    `clock` gives unix microseconds; `scrape` is there where this process is one of several workers."""

    settings: Settings
    log: EventLog
    runner: ProjectionRunner
    queries: Queries
    supervisor: Supervisor
    expiry: ExpiryTimer
    erasures: Erasures
    reader: Reader
    feeds: Feeds
    nodes: Nodes
    streams: OpenStreams
    pourer: Pourer
    metrics: Metrics
    readiness: Readiness
    health: HealthMonitor
    provider: Provider
    gate: Gate
    log_watch: LogWatch
    new_id: Callable[[], str]
    new_token: Callable[[], str]
    clock: Callable[[], int]
    logger: structlog.stdlib.BoundLogger
    version: str
    log_writer: LogWriter | None = None
    scrape: Scrape | None = None


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
