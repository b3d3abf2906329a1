"""A node that is killed while it folds: another goes on, and nothing is lost or counted twice."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from events.storage.postgres.postgres_log import PostgresLog
from projections.port import SessionListQuery
from tests.integration.projections.test_node_projections import Node, eventually, node
from tests.support.log.event_builders import created, turn
from tests.support.programs.postgres_server import PostgresServer

pytestmark = pytest.mark.real_part
SESSIONS, TURNS, KILLS = 8, 6, 2

# Folds in small batches, and says after each one how far it is.
FOLDING = """
import asyncio, sys
from events.storage.postgres.postgres_log import PostgresLog
from projections.postgres.node_projections import NodeProjections
from projections.runner import RunnerOptions

class Says:
    def applied(self, events, seconds): print("applied", flush=True)
    def progress(self, position, head): pass
    def rebuilt(self, reason): print("rebuilt", reason, flush=True)
    def adopted(self, position): pass
    def failed(self, error): print("failed", error, flush=True)

async def main():
    log = await PostgresLog.open(sys.argv[1])
    await NodeProjections(log, log.database, log.pool, Says(), RunnerOptions(batch_max=3, delay_s=0.001)).start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_node_that_is_killed_while_it_folds_is_replaced(postgres: PostgresServer) -> None:
    url = await postgres.schema()
    log = await PostgresLog.open(url)
    try:
        one = Node(log)
        for number in range(KILLS):
            folding = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", FOLDING, url),
                stdout=asyncio.subprocess.PIPE,
                cwd=Path(__file__).parents[3],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            assert folding.stdout is not None
            for session in range(SESSIONS):
                name = f"s{number}-{session}"
                await one.append(name, 0, created("alice"), *[event for n in range(TURNS) for event in turn(n)])
            for _ in range(2 + number):
                assert await folding.stdout.readline() == b"applied\n"
            folding.send_signal(signal.SIGKILL)
            await folding.wait()
    finally:
        await log.close()
    async with node(url) as next_one:
        await next_one.version("s0-0")
        in_parts = await answers(next_one)
        assert await next_one.projections.queries.counts() == {"active": KILLS * SESSIONS}
        assert next_one.told.reasons == [], "it goes on where the others were"
        await eventually(lambda: next_one.folds)
    rebuilt = await PostgresLog.open(url)
    async with node(url, rebuilt) as again:
        await eventually(lambda: again.folds)
        runner = again.projections._runner
        assert runner is not None
        runner.on_trouble("to compare")
        await eventually(lambda: again.told.reasons)
        await eventually(lambda: not again.projections.rebuilding)
        assert await answers(again) == in_parts


async def answers(one: Node) -> object:
    queries = one.projections.queries
    listed = await queries.list_sessions(SessionListQuery(owner="alice"))
    paths = [await queries.path(session.no, session.head or "", limit=100) for session in listed.sessions]
    return listed.sessions, paths, await queries.usage("model", "2000-01-01", "2100-01-01")
