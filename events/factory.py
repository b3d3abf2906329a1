"""Opens the event log in the store that its location names: SQLite for a path, PostgreSQL for a URL."""

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from events.compatibility import OtherNodes
from events.errors import LogUnusable
from events.log import EventLog
from events.log_observer import LogObserver
from events.options import LogOptions
from events.remote.remote_log import RemoteLog
from events.remote.shared_positions import SharedPositions
from events.storage.append_batch import now_us
from events.storage.sqlite.sqlite_log import SqliteLog

__all__ = ["LogOptions", "WriterAddress", "now_us", "open_log"]


class WriterAddress(Struct, frozen=True):
    """The process that writes a log in a file: the path of its socket, and the descriptor of its positions
    (events/remote/shared_positions.py).
    """

    address: str
    positions: int


async def open_log(  # noqa: PLR0913  each has a default that suits
    place: Path | str,
    options: LogOptions | None = None,
    *,
    read_only: bool = False,
    clock: Callable[[], int] = now_us,
    observe: LogObserver | None = None,
    other_nodes: OtherNodes | None = None,
    writer: WriterAddress | None = None,
    owner: int | None = None,
    program: str = "unknown",
) -> EventLog:
    """The log in `place`, a path or a PostgreSQL URL, created if missing; with `read_only` nothing is written.

    With `writer` another process of this machine writes the file; `other_nodes` knows what the others can read. `owner`
    is the process to stop before another one can write the file; None: this one. `program` is the version of this
    program, which that process or other nodes see.
    Raises LogUnusable, which says what to do about it.
    """
    if isinstance(place, Path) and writer is not None and not read_only:
        return await RemoteLog.open(
            place,
            writer.address,
            SharedPositions(writer.positions),
            options,
            clock=clock,
            observe=observe,
            other_nodes=other_nodes,
            program=program,
        )
    if isinstance(place, Path):
        return await SqliteLog.open(
            place,
            options,
            read_only=read_only,
            clock=clock,
            observe=observe,
            owner=owner,
            other_nodes=other_nodes,
        )
    try:
        from events.storage.postgres.postgres_log import PostgresLog  # noqa: PLC0415  asyncpg is optional
    except ImportError as error:
        raise LogUnusable("a log in PostgreSQL needs asyncpg: pip install 'chatbot-backend[postgres]'") from error
    return await PostgresLog.open(place, options, read_only=read_only, clock=clock, observe=observe, program=program)
