"""What a drill runs on: nodes over one log, a proxy before them, a model server behind them; and all of it gone after.

Two shapes: one node over SQLite, and several over PostgreSQL, each of one process or of several. Where namespaces can
be had each part has its own, so that any two can be cut from each other; `no_network_reason` says why not, otherwise.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from msgspec import Struct

from tests.drills.environment.database_pair import DatabasePair
from tests.drills.environment.drill_nodes import Node, make_node
from tests.drills.environment.network_namespaces import HUB, Endpoint, Network, network, why_no_network
from tests.drills.load.client_requests import Targets
from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import free_port
from tests.support.programs.nginx import Nginx

LOOPBACK = "127.0.0.1"
SERVERS = ("db1", "db2")  # of PostgreSQL: one is the primary, the other its standby
PORT = 8080  # of each part, where each has an address of its own
MODEL_DELAY_S = 0.03  # before each word
PROXIED = """
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_connect_timeout 1s;
    proxy_next_upstream_tries 3;
"""  # nginx sends no POST or PATCH again that may have arrived, by itself


class Shape(Struct, frozen=True):
    """How the service runs: nodes over PostgreSQL, or one over a file, each of so many workers. `share`: of the time
    for drills, compared with other shapes.
    """

    nodes: int = 1
    workers: int = 1
    postgres: bool = True
    share: float = 1


class Cluster(Struct):
    """The parts of a drill. `place` is the log's, as DATABASE_URL has it."""

    folder: Path
    nodes: list[Node]
    targets: Targets
    model: ModelServer
    place: str
    databases: DatabasePair | None = None
    network: Network | None = None
    no_network_reason: str | None = None

    @property
    def others(self) -> list[str]:
        """All places in the network."""
        return [HUB, *SERVERS, *(node.name for node in self.nodes)]


@asynccontextmanager
async def cluster(folder: Path, shape: Shape) -> AsyncIterator[Cluster]:
    """Started and ready, in `folder`, which other users can enter. Its processes and namespaces end with it."""
    async with AsyncExitStack() as stack:
        names = [f"n{number}" for number in range(1, shape.nodes + 1)]
        no_network_reason = await why_no_network() if shape.postgres else "a log in a file needs no network"
        net = None if no_network_reason else await stack.enter_async_context(network([*SERVERS, *names]))
        model = ModelServer(host=net.address(HUB) if net else LOOPBACK, delay_s=MODEL_DELAY_S)
        await stack.enter_async_context(model)
        databases, place = None, str(folder / "chatbot.db")
        if shape.postgres:
            endpoints = {name: _place(net, name) for name in SERVERS}
            databases = DatabasePair(folder, endpoints, net.mask if net else f"{LOOPBACK}/32")
            stack.push_async_callback(databases.kill)
            await databases.create()
            place = databases.url
        made: list[Node] = []
        for name in names:
            node = make_node(name, folder / name, _place(net, name), place, model.url, workers=shape.workers)
            stack.push_async_callback(node.part.kill)
            await node.start()
            made.append(node)
        targets = Targets({node.name: node.url for node in made})
        if shutil.which("nginx"):
            proxy = Nginx(folder / "nginx", *(node.url for node in made), extra=PROXIED, read_timeout_s=30)
            stack.push_async_callback(proxy.stop)
            await proxy.start()
            targets.urls["proxy"] = proxy.url
        yield Cluster(folder, made, targets, model, place, databases, net, no_network_reason)


def _place(net: Network | None, name: str) -> Endpoint:
    if net is None:
        return Endpoint(LOOPBACK, free_port(), free_port())
    return Endpoint(net.address(name), PORT, PORT + 1, net.command_prefix(name))
