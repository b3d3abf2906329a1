"""A process that writes a SQLite log to which others append: `python -m tests.support.log.log_writer ORDERS`.

It says `ready`, and ends in order at a line on its standard input or its end.
"""

import asyncio
import socket
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from events.remote.append_server import AppendServer
from events.remote.shared_positions import SharedPositions
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.bench.harness.bench_loop import loop_factory


class WriterOrders(Struct, frozen=True):
    """`listener` and `positions` are inherited descriptors."""

    path: str
    listener: int
    positions: int


async def main(orders: WriterOrders) -> None:
    log = await SqliteLog.open(Path(orders.path))
    server = AppendServer(log, socket.socket(fileno=orders.listener), SharedPositions(orders.positions))
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await server.close()
    await log.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(msgspec.json.decode(sys.argv[1], type=WriterOrders)))
