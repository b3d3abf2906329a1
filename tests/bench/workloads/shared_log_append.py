"""Appends to one log by one process or by several: SQLite's on one machine, PostgreSQL's."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from events.factory import WriterAddress
from events.remote.shared_positions import create_positions_file
from tests.bench.harness import tables
from tests.bench.harness.bench_processes import ROOT, cpu_s, family
from tests.bench.workloads.log_append import Rate
from tests.bench.workloads.shared_log_appender import Orders
from tests.support.log.log_writer import WriterOrders
from tests.support.programs.postgres_server import PostgresServer

WARMUP_S = 1.0
END_S = 15.0
APPENDERS = {1: (1, 16, 64, 256), 2: (2, 16, 64, 256), 4: (16, 64, 256)}  # by how many processes; the sum over all
STORES = {"SQLite": False, "PostgreSQL": True}


class Measured(NamedTuple):
    """`cpu_us` an event in all appending processes and in the one that writes SQLite's file for several of them,
    `store_us` in those of PostgreSQL.
    """

    per_s: float
    cpu_us: float
    store_us: float


Found = dict[str, dict[str, list[Measured]]]  # "<processes> <appenders>" -> store -> rounds


def measure(
    server: PostgresServer | None,
    rounds: int,
    seconds: float,
    warmup_s: float = WARMUP_S,
    wanted: dict[int, tuple[int, ...]] = APPENDERS,
) -> Found:
    """Every number of processes and appenders on both stores, alternately. Raises RuntimeError."""
    found: Found = {}
    for number in range(rounds):
        for processes, counts in wanted.items():
            for appenders in counts:
                for store, on_postgres in list(STORES.items())[:: -1 if number % 2 else 1]:
                    if on_postgres and server is None:
                        continue
                    seen = once(server if on_postgres else None, processes, appenders, (seconds, warmup_s))
                    found.setdefault(f"{processes} {appenders}", {}).setdefault(store, []).append(seen)
                    line = f"{store}, processes {processes}, appenders {appenders}: {seen.per_s:,.0f}/s"
                    print(f"round {number + 1}: {line}", file=sys.stderr, flush=True)
    return found


def once(server: PostgresServer | None, processes: int, appenders: int, times_s: tuple[float, float]) -> Measured:
    """On an empty log: in `server`, else a SQLite file. `times_s`: measured, and before. Raises RuntimeError."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place, writer, address = str(Path(name) / "log.db"), None, None
        if server is not None:
            place = asyncio.run(server.schema())
        elif processes > 1:
            writer, address = stack.enter_context(_writer(Path(place)))
        running = []
        for slot in range(processes):
            own = len(range(slot, appenders, processes))
            orders = Orders(place, own, *times_s, address)
            running.append(stack.enter_context(_started("tests.bench.workloads.shared_log_appender", orders, address)))
        for process in running:
            _line(process)
        pids = [] if server is None else family(server.pid)
        own_pids = [] if writer is None else [writer.pid]
        before_s, written_s = sum(cpu_s(pids).values()), sum(cpu_s(own_pids).values())
        _tell(running)
        rates = [msgspec.json.decode(_line(process), type=Rate) for process in running]
        store_s = sum(cpu_s(pids).values()) - before_s
        written_s = sum(cpu_s(own_pids).values()) - written_s
        _tell(running)
        for process in running:
            process.wait(END_S)
    per_s = sum(rate.per_s for rate in rates)
    cpu_us = sum(rate.per_s * rate.cpu_us for rate in rates) / per_s + written_s / (per_s * times_s[0]) * 1e6
    return Measured(per_s, cpu_us, store_s / (per_s * times_s[0]) * 1e6)


@contextmanager
def _writer(path: Path) -> Iterator[tuple[subprocess.Popen[str], WriterAddress]]:
    """The process that writes the log in `path`, and where the others find it."""
    address = path.with_name("writer.sock")
    descriptor = create_positions_file()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        orders = WriterOrders(str(path), listener.fileno(), descriptor)
        found = WriterAddress(str(address), descriptor)
        with _started("tests.support.log.log_writer", orders, found, listener.fileno()) as process:
            _line(process)
            yield process, found
            _tell([process])
            process.wait(END_S)
    os.close(descriptor)


def _started(module: str, orders: Struct, writer: WriterAddress | None, *inherited: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, msgspec.json.encode(orders).decode()],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=inherited if writer is None else (writer.positions, *inherited),
    )


def _tell(running: Sequence[subprocess.Popen[str]]) -> None:
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise RuntimeError(f"a process that appends has ended with {process.wait(END_S)}")
    return line


def report(found: Found) -> str:
    """In Markdown."""
    header = ["1 KiB events appended by"]
    for store, on_postgres in STORES.items():
        header += [f"{store}, per s", "CPU us"] + (["CPU us in the server"] if on_postgres else [])
    rows = []
    for key, stores in found.items():
        processes, appenders = key.split()
        row = [" ".join((_counted(appenders, "appender", "s"), "in", _counted(processes, "process", "es")))]
        for store, on_postgres in STORES.items():
            rounds = stores.get(store, [])
            names = ("per_s", "cpu_us", "store_us") if on_postgres else ("per_s", "cpu_us")
            row += [tables.shown([getattr(one, name) for one in rounds]) if rounds else "" for name in names]
        rows.append(row)
    return tables.table(header, rows)


def _counted(number: str, what: str, plural: str) -> str:
    return f"{number} {what}{'' if number == '1' else plural}"
