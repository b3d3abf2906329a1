"""One node of several over one log: its name, its listener, its background tasks, and the cluster port for sessions."""

import asyncio
import secrets
import socket
import time
from collections.abc import Coroutine
from typing import Any

import structlog

from chatbot.config.sections.node_settings import NodeSettings
from chatbot.nodes.append_dispatcher import AppendDispatcher
from chatbot.nodes.failure_detector import FailureDetector
from chatbot.nodes.held_streams import HeldStreams
from chatbot.nodes.node_client import NodeClient, NodeObserver, NodeUnreachable
from chatbot.nodes.node_id import format_node_id, parse_node_id
from chatbot.nodes.orphan_reaper import OrphanReaper
from chatbot.nodes.reply_mirrors import MirrorContext, ReplyMirrors
from chatbot.observability.metric_families import MetricFamily, decode
from chatbot.sessions.domain.commands import Caller, CancelReply
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.ports import LiveSessions, Ports
from chatbot.sessions.replies.reply import Reply
from chatbot.workers.server_sockets import CannotListen
from events.log import EventLog
from events.record import RecordedEvent
from projections.folds.session import OpenReply, Session


class NodeCluster:
    """Implements cluster_port.Cluster. Has no list of nodes: their names are in the events of the replies they owe."""

    def __init__(
        self,
        name: str,
        node_client: NodeClient,
        failure_detector: FailureDetector,
        mirrors: ReplyMirrors,
        held_streams: HeldStreams,
    ) -> None:
        self.name: str | None = name
        self._node_client = node_client
        self._failure_detector = failure_detector
        self._mirrors = mirrors
        self.begin_replies = held_streams.begin_replies
        self.end_replies = held_streams.end_replies

    async def is_gone(self, node: str | None) -> bool:
        """As Cluster.is_gone."""
        return await self._failure_detector.is_gone(node)

    async def cancel(self, session_id: str, running: OpenReply, command: CancelReply, caller: Caller) -> bool:
        """As Cluster.cancel."""
        address = parse_node_id(running.node)
        if address is None or await self._failure_detector.is_gone(running.node):
            return False
        return await self._node_client.cancel(address, (session_id, running.reply_id), command, caller)

    def running_reply(self, session_id: str) -> Reply | None:
        """As Cluster.running_reply."""
        return self._mirrors.running_reply(session_id)

    async def watch(self, session: Session) -> Reply | None:
        """As Cluster.watch."""
        written = session.open_reply
        if written is None or written.node == self.name:
            return None
        return await self._mirrors.mirror_running(session.session_id, written)

    async def leave(self) -> None:
        """As Cluster.leave."""
        await self._mirrors.close()

    async def await_reply(self, session_id: str, asked: RecordedEvent, caller: Caller) -> Reply | None:
        """As Cluster.await_reply."""
        return await self._mirrors.mirror_pending(session_id, asked, caller)


BACKLOG = 1024  # connections of other nodes that wait for accept
PROBE_CONNECTIONS_MAX = 64  # connections to other nodes besides those that follow a reply


class Node:
    """The constructor binds `listener`, because the port is part of the node's name. `secret` is shared by all nodes.

    Raises CannotListen if the port cannot be bound.
    """

    def __init__(self, settings: NodeSettings, log: EventLog, feeds: ChannelRegistry, observe: NodeObserver) -> None:
        self._settings = settings
        self._node_lost = asyncio.Event()
        family = socket.AF_INET6 if ":" in settings.listen_host else socket.AF_INET
        own = settings.listen_host, settings.listen_port
        try:
            self.listener = socket.create_server(own, family=family, backlog=BACKLOG)
        except OSError as error:
            raise CannotListen(*own, error, "CHATBOT_NODES_LISTEN_HOST or CHATBOT_NODES_LISTEN_PORT") from error
        host = settings.advertise_host or settings.listen_host
        self.name = format_node_id(host, self.listener.getsockname()[1], secrets.token_hex(4))
        self.secret = settings.secret or secrets.token_urlsafe(32)  # a random one refuses all other nodes
        self._node_client = NodeClient(
            self.secret,
            settings.probe_timeout_s,
            settings.failure_timeout_s,
            settings.remote_replies_max + PROBE_CONNECTIONS_MAX,
            observe,
        )
        self._failure_detector = FailureDetector(
            self.name, self._node_client, settings.failure_timeout_s, time.monotonic
        )
        self._held_streams = feeds.streams = HeldStreams(log)
        self._mirrors = ReplyMirrors(
            MirrorContext(
                own_name=self.name,
                log=log,
                feeds=feeds,
                held_streams=self._held_streams,
                node_client=self._node_client,
                mirrors_max=settings.remote_replies_max,
                timer=time.monotonic,
                on_node_lost=self._node_lost.set,
                observe=observe,
            )
        )
        self.cluster = NodeCluster(
            self.name, self._node_client, self._failure_detector, self._mirrors, self._held_streams
        )
        if not settings.secret:
            structlog.get_logger("nodes").info(
                "nodes.no_secret", effect="other nodes cannot follow replies here, only read their checkpoints"
            )

    def background_tasks(self, ports: Ports, supervisor: LiveSessions) -> dict[str, Coroutine[Any, Any, None]]:
        """The background tasks, by name."""
        reaper = OrphanReaper(
            ports,
            supervisor,
            self._failure_detector,
            self._held_streams,
            self._node_lost,
            self._settings.sweep_interval_s,
        )
        dispatcher = AppendDispatcher(ports, supervisor, self._mirrors, reaper)
        return {"tail": dispatcher.run(), "watch": reaper.run(), "holds": self._held_streams.run()}

    async def fetch_metrics(self, node: str) -> tuple[MetricFamily, ...]:
        """The metrics of another node. Raises NodeUnreachable, msgspec.DecodeError."""
        address = parse_node_id(node)
        if address is None:
            raise NodeUnreachable(f"{node} is not a node's name")
        return decode(await self._node_client.fetch_metrics(address))

    async def close(self) -> None:
        """Stop following other nodes, and close the listener."""
        await self._mirrors.close()
        await self._node_client.close()
        self.listener.close()
