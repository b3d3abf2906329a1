"""A log moved into another store: the same rows at the same positions, with the same digests.

What is copied is proven on the way. An interrupted move goes on where the target ends, if the source has the very same
event there. Content that an event of the source explains away is erased in the target, whatever the source still holds.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from msgspec.structs import astuple

from events.errors import MigrationRefused
from events.integrity.chain_verifier import ChainVerifier
from events.log import EventLog, RowScanner
from events.record import Columns, Head, RawColumns, stored_row

PAGE_ROWS = 2000  # read, proven and written at once: one commit


class MigrationTarget(Protocol):
    """Where a log is copied to. One at a time may write it."""

    head: Head

    async def add(self, rows: Sequence[Columns]) -> None:
        """Write `rows` behind the head, and erase what an event among them explains away, in one transaction.

        Raises MigrationRefused, LogUnavailable.
        """
        ...

    async def finish_erasures(self) -> None:
        """Erase all content that a later event of its stream explains away. Raises LogUnavailable."""
        ...

    async def finish(self) -> None:
        """All is copied: from now on the target may be used, which `add` has marked as unfinished. Raises as `add`."""
        ...

    async def close(self) -> None: ...


async def open_target(place: Path | str) -> MigrationTarget:
    """The log in `place`, made if missing. Raises LogUnusable, of which LogInUse is one."""
    if isinstance(place, Path):
        from events.storage.sqlite.sqlite_migration_target import SqliteMigrationTarget  # noqa: PLC0415  one store is enough

        return await SqliteMigrationTarget.open(place)
    from events.storage.postgres.postgres_migration_target import PostgresMigrationTarget  # noqa: PLC0415  asyncpg is optional

    return await PostgresMigrationTarget.open(place)


async def migrate(source: EventLog, target: MigrationTarget, progress: Callable[[int], None]) -> int:
    """Copy what `target` lacks of `source`, until no event is left; their number. `progress` hears the position.

    A source to which others append is followed until it is level. Raises MigrationRefused, LogError.
    """
    begin = target.head
    await _check_same_log(source, begin)
    if begin.position:
        await target.finish_erasures()  # version 0.4 could stop between an event and its erasure
    walk = ChainVerifier(start=begin if begin.position else None)
    page = await _read_proven(source, walk)
    while page:
        following = asyncio.create_task(_read_proven(source, walk))  # the next page is proven while this one is written
        try:
            await target.add(page)
            progress(target.head.position)
            page = await following
        finally:
            following.cancel()
    _raise_fault(walk.end())
    if target.head != Head(walk.position, walk.digest):
        raise MigrationRefused("the target does not end as the source does: something else writes to it")
    await target.finish()
    return walk.position - begin.position


async def _check_same_log(source: EventLog, head: Head) -> None:
    if head.position:
        rows = await source.rows(after=head.position - 1, limit=1)
        if not rows or rows[0].position != head.position or rows[0].digest != head.digest:
            raise MigrationRefused(
                f"the target holds another log, or more of this one: its event at position {head.position} is not the"
                " source's; choose an empty target"
            )


async def _read_proven(source: EventLog, walk: ChainVerifier) -> list[Columns]:
    """The next rows, which follow from those before. Raises MigrationRefused."""

    def take(rows: Iterator[RawColumns]) -> list[Columns]:
        page = list(rows)
        _raise_fault(walk.check_many(page))
        return [astuple(stored_row(row)) for row in page]

    if isinstance(source, RowScanner):
        return await source.scan_rows(take, after=walk.position, limit=PAGE_ROWS)
    raise MigrationRefused("this store cannot be copied from")


def _raise_fault(fault: object) -> None:
    if fault is not None:
        raise MigrationRefused(f"the source does not hold: {fault}")
