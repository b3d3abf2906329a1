"""This node among the others, put together: its name, its port, what it follows and watches."""

import asyncio
import secrets
import socket
import time
from collections.abc import Coroutine
from typing import Any

import structlog

from chatbot.config.nodes import NodeSettings
from chatbot.nodes.cluster import Cluster
from chatbot.nodes.liveness import Liveness
from chatbot.nodes.mirrors import Mirrors, Surroundings
from chatbot.nodes.name import address_of, name_of
from chatbot.nodes.peers import NodeObserver, PeerLost, Peers
from chatbot.nodes.tail import Tail
from chatbot.nodes.watch import Watch
from chatbot.sessions.feeds import Feeds
from chatbot.sessions.ports import Ports
from chatbot.sessions.supervisor import Supervisor
from chatbot.workers.families import Family, decode
from chatbot.workers.listening import CannotListen
from events.log import EventLog

BACKLOG = 1024  # connections of other nodes that wait to be accepted
PROBES = 64  # connections to other nodes beside those that follow a reply


class Membership:
    """`listener` is bound already, so that the port, and with it the name, is known; `secret` is what others must know.

    Raises CannotListen when the port cannot be bound.
    """

    def __init__(self, settings: NodeSettings, log: EventLog, feeds: Feeds, observe: NodeObserver) -> None:
        self._settings = settings
        self._lost = asyncio.Event()
        family = socket.AF_INET6 if ":" in settings.listen_host else socket.AF_INET
        own = settings.listen_host, settings.listen_port
        try:
            self.listener = socket.create_server(own, family=family, backlog=BACKLOG)
        except OSError as error:
            raise CannotListen(*own, error, "CHATBOT_NODES_LISTEN_HOST or CHATBOT_NODES_LISTEN_PORT") from error
        host = settings.advertise_host or settings.listen_host
        self.name = name_of(host, self.listener.getsockname()[1], secrets.token_hex(4))
        self.secret = settings.secret or secrets.token_urlsafe(32)  # without one nobody else is let in
        self._peers = Peers(
            self.secret, settings.probe_timeout_s, settings.suspect_s, settings.mirrors_max + PROBES, observe
        )
        self._liveness = Liveness(self.name, self._peers, settings.suspect_s, time.monotonic)
        self._mirrors = Mirrors(
            Surroundings(
                own_name=self.name,
                log=log,
                feeds=feeds,
                peers=self._peers,
                mirrors_max=settings.mirrors_max,
                timer=time.monotonic,
                lost=self._lost.set,
                observe=observe,
            )
        )
        self.cluster = Cluster(self.name, self._peers, self._liveness, self._mirrors)
        if not settings.secret:
            structlog.get_logger("nodes").info(
                "nodes.no_secret", effect="other nodes cannot follow replies here, only read their checkpoints"
            )

    def work(self, ports: Ports, supervisor: Supervisor) -> dict[str, Coroutine[Any, Any, None]]:
        """What is to run beside the service, by name."""
        watch = Watch(ports, supervisor, self._liveness, self._lost, self._settings.look_s)
        return {"tail": Tail(ports, supervisor, self._mirrors, watch).run(), "watch": watch.run()}

    async def samples(self, node: str) -> tuple[Family, ...]:
        """What another node has to say in /metrics. Raises PeerLost, msgspec.DecodeError."""
        address = address_of(node)
        if address is None:
            raise PeerLost(f"{node} is no node's name")
        return decode(await self._peers.samples(address))

    async def close(self) -> None:
        """Stop following other nodes, and let go of the port."""
        await self._mirrors.close()
        await self._peers.close()
        self.listener.close()
