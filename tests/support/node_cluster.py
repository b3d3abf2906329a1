"""Several nodes over one log, in this process, each with projections, actors, sockets and mirrors of its own."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from chatbot.nodes.node_authentication import Request, authorization
from tests.support.service import Program, Running, started, unblocked

SECRET = "a-secret-that-all-nodes-share"
TWO: tuple[Mapping[str, str], ...] = ({}, {})


def node_settings(folder: Path, database_url: str) -> dict[str, str]:
    """Those of a node that keeps its projections in `folder`."""
    return {
        "DATABASE_URL": database_url,
        "CHATBOT_DATABASE_PROJECTIONS_PATH": str(folder / "projections.db"),
        "CHATBOT_NODES_SECRET": SECRET,
        "CHATBOT_NODES_SWEEP_INTERVAL_S": "0.3",
    }


@asynccontextmanager
async def nodes(
    folder: Path, database_url: str, model_url: str, *own: Mapping[str, str], **settings: str
) -> AsyncIterator[list[Running]]:
    """A node for each of `own`, its own settings (two if none), on the PostgreSQL database at `database_url`."""
    async with AsyncExitStack() as stack:
        running = []
        for number, special in enumerate(own or TWO):
            place = folder / f"node-{number}"
            place.mkdir()
            wanted = {**node_settings(place, database_url), **settings, **special}
            running.append(await stack.enter_async_context(started(place, model_url, **wanted)))
        with unblocked():
            yield running


@asynccontextmanager
async def node_programs(
    folder: Path, database_url: str, model_url: str, **settings: str
) -> AsyncIterator[list[tuple[Program, httpx.AsyncClient]]]:
    """Two nodes as processes of their own, each with a client."""
    async with AsyncExitStack() as stack:
        started = []
        for number in range(2):
            own = folder / f"node-{number}"
            own.mkdir()
            one = await Program.start(own, model_url, **{**node_settings(own, database_url), **settings})
            stack.push_async_callback(one.kill)
            started.append((one, await stack.enter_async_context(httpx.AsyncClient(base_url=one.url, timeout=30))))
        yield started


async def known(
    peer: httpx.AsyncClient, method: str, url: str, body: bytes = b"", secret: str = SECRET
) -> dict[str, str]:
    """Headers for one request by who knows the secret."""
    nonce = (await peer.get("/challenge", params={"nonce": "mine"})).json()["nonce"]
    return {"Authorization": authorization(secret, nonce, Request(method, url, body))}
