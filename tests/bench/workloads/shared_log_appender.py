"""A process that appends to a log which others append to, too; the nodes benchmark starts it and tells it when.

It says `ready` once it is warm, begins at a line on its standard input, and ends with a line of JSON: its rate.
"""

import asyncio
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from events.factory import WriterAddress, open_log
from tests.bench.harness.bench_loop import loop_factory
from tests.bench.workloads.log_append import EVENTS, KINDS, drive, lasting, through


class Orders(Struct, frozen=True):
    """`place` is a URL, or a path; `writer` is the process that writes the path for several others."""

    place: str
    appenders: int
    seconds: float
    warmup_s: float
    writer: WriterAddress | None = None


async def main(orders: Orders) -> None:
    place = orders.place if "://" in orders.place else Path(orders.place)
    log = await open_log(place, writer=orders.writer)
    append, made = through(log, lambda number: [EVENTS[number % KINDS]]), [0] * orders.appenders
    await drive(append, made, orders.appenders, lasting(orders.warmup_s))
    print("ready", flush=True)
    sys.stdin.readline()
    rate = await drive(append, made, orders.appenders, lasting(orders.seconds))
    print(msgspec.json.encode(rate).decode(), flush=True)
    sys.stdin.readline()  # who still appends is not to be disturbed by this one's end
    await log.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(msgspec.json.decode(sys.argv[1], type=Orders)))
