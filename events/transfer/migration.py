"""Migration of a log into another store: the same rows at the same positions, with the same digests.

Rows are verified while they are copied. An interrupted migration continues where the target ends, if the source has the
same event there. Content that a later event erases is erased in the target, even where the source still has it.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import astuple

from events.errors import MigrationRefused
from events.integrity.chain_verifier import ChainVerifier
from events.log import EventLog, RowScanner
from events.record import Columns, Head, RawColumns, stored_row
from events.storage.erasure_rules import without_erased
from events.transfer.file_copies import FileCopier, FileTarget, LostFile

PAGE_ROWS = 2000  # read, verified and written at once, in one commit


class MigrationTarget(FileTarget, Protocol):
    """The log to copy into, locked for one writer."""

    head: Head

    async def add(self, rows: Sequence[Columns]) -> None:
        """Append `rows` with their references to files, and erase content that an event among them erases, in one
        transaction.

        Raises MigrationRefused, LogUnavailable.
        """
        ...

    async def finish_erasures(self) -> None:
        """Erase all content that a later event of its stream erases. Raises LogUnavailable."""
        ...

    async def finish(self) -> None:
        """Delete files that nothing refers to, and mark the target, which `add` and `add_media` have marked as
        incomplete, as complete. Raises as `add`.
        """
        ...

    async def close(self) -> None: ...


async def open_target(place: Path | str) -> MigrationTarget:
    """The log in `place` (path or PostgreSQL URL), created if missing. Raises LogUnusable, of which LogInUse is one."""
    if isinstance(place, Path):
        from events.storage.sqlite.sqlite_migration_target import SqliteMigrationTarget  # noqa: PLC0415  one store is enough

        return await SqliteMigrationTarget.open(place)
    from events.storage.postgres.postgres_migration_target import PostgresMigrationTarget  # noqa: PLC0415  asyncpg is optional

    return await PostgresMigrationTarget.open(place)


class Migrated(Struct):
    """Events that were copied, and files that were not: those that are named, and their number."""

    events: int
    lost: list[LostFile]
    lost_in_all: int


async def migrate(source: EventLog, target: MigrationTarget, progress: Callable[[int], None]) -> Migrated:
    """Copy what `target` lacks of `source`; `progress` is called with the position. A file that is missing or damaged
    in the source does not stop it.

    A source to which others append is followed until the target has caught up. Raises MigrationRefused, LogError.
    """
    begin = target.head
    await _check_same_log(source, begin)
    if begin.position:
        await target.finish_erasures()  # version 0.4 could stop between an event and its erasure
    files = FileCopier(source.media, target)
    verifier = ChainVerifier(start=begin if begin.position else None)
    page = await _read_verified(source, verifier)
    while page:
        next_page = asyncio.create_task(_read_verified(source, verifier))  # is verified while this page is written
        try:
            await files.copy_for(without_erased(page)[0])
            await target.add(page)
            progress(target.head.position)
            page = await next_page
        finally:
            next_page.cancel()
    _raise_fault(verifier.finish())
    if target.head != Head(verifier.position, verifier.digest):
        raise MigrationRefused("the target does not end as the source does: something else writes to it")
    await target.finish()
    lost = [one for one in files.lost.values() if await _has_content(source, one.position)]
    return Migrated(verifier.position - begin.position, lost, len(lost) + files.lost_unnamed)


async def _check_same_log(source: EventLog, head: Head) -> None:
    if head.position:
        rows = await source.rows(after=head.position - 1, limit=1)
        if not rows or rows[0].position != head.position or rows[0].digest != head.digest:
            raise MigrationRefused(
                f"the target holds another log, or more of this one: its event at position {head.position} is not the"
                " source's; choose an empty target"
            )


async def _has_content(source: EventLog, position: int) -> bool:
    """Where the event was erased since it was copied, its file went with it and is not lost."""
    rows = await source.rows(after=position - 1, limit=1)
    return bool(rows) and rows[0].data is not None


async def _read_verified(source: EventLog, verifier: ChainVerifier) -> list[Columns]:
    """The next page of rows, verified. Raises MigrationRefused."""

    def verify_page(rows: Iterator[RawColumns]) -> list[Columns]:
        page = list(rows)
        _raise_fault(verifier.check_many(page))
        return [astuple(stored_row(row)) for row in page]

    if isinstance(source, RowScanner):
        return await source.scan_rows(verify_page, after=verifier.position, limit=PAGE_ROWS)
    raise MigrationRefused("this store cannot be copied from")


def _raise_fault(fault: object) -> None:
    if fault is not None:
        raise MigrationRefused(f"the source does not hold: {fault}")
