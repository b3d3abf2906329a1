"""How far the tables are folded, for a node that does not fold itself."""

import asyncio

from events.backoff import backoff_delays
from events.storage.postgres.postgres_connection import FAILURES
from projections.errors import ProjectionsUnusable
from projections.port import Checkpoint
from projections.postgres import node_statements as sql
from projections.postgres.projection_schema import NAMES, PREFIX
from projections.postgres.server_session import ServerSession

TABLES_WAIT_S = 10.0  # for the tables that another node is creating

_NO_TABLE = "42P01"


async def read_checkpoint(session: ServerSession, label: str) -> Checkpoint:
    """Of the tables, once the node that folds has created them. Raises FAILURES, and ProjectionsUnusable with what to
    run for a role that may not read them.
    """
    async with asyncio.timeout(TABLES_WAIT_S):
        for pause_s in backoff_delays(0.02, 0.5):
            for (grant,) in await session.fetch(sql.NOT_READABLE, [PREFIX + name for name in NAMES]):
                what = "this role may not read the tables of the projections"
                raise ProjectionsUnusable(f"database {label}: {what}: {grant}")
            try:
                rows = await session.fetch(sql.CHECKPOINT)
            except FAILURES as error:
                if getattr(error, "sqlstate", None) != _NO_TABLE:
                    raise
            else:
                return Checkpoint(*rows[0]) if rows else Checkpoint()
            await asyncio.sleep(pause_s)
    raise AssertionError("backoff never ends")
