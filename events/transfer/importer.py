"""Imports an export in two passes over the file: `validate` checks everything before anything is written, then `write`
copies. Memory: one page of events, and a few chunks of a file.

Node ids are removed from events: they are addresses that the nodes of this log would connect to.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from events.catalogue import (
    ERASURE_TYPES,
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    MessageCopied,
    MessagePosted,
    MessageRedacted,
    MessageWithdrawn,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    ReservedEvent,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    SessionRead,
    SessionViewed,
    ToolCallsClosed,
)
from events.codec import TYPES, decode, is_known
from events.integrity.erased_versions import redacted_versions
from events.media import MediaStat
from events.record import StoredRow
from events.transfer.changed_rows import with_data
from events.transfer.export_format import ExportReader, Item
from events.transfer.import_target import HISTORY_ADOPTED, ROWS_MAX, ImportRefused, ImportTarget, PresentEvent

PAGE_BYTES_MAX = 4 * 2**20  # content in one page: bounds memory for events of any size
NAMED_MAX = 5  # streams that a refusal names
Page = list[tuple[int, StoredRow]]  # events with their line numbers
# The types of events with the id of a node, each with whether the field is required.
NODE_NAMING_TYPES = {
    name: field.required for name, cls in TYPES.items() for field in fields(cls) if field.name == "node"
}


class ImportRules(Struct, frozen=True):
    """What to do about streams that the log has already. Neither: refuse the import.

    `resume`: an earlier import of the same file was interrupted; continue it.
    """

    skip_existing: bool = False
    resume: bool = False


class Importer:
    """Copies one file into one log. `skipped` counts events that are not written."""

    def __init__(self, target: ImportTarget, origin: str, rules: ImportRules) -> None:
        self.skipped = 0
        self._target = target
        self._origin = origin
        self._rules = rules
        self._clashes: list[str] = []
        self._copied = self._missing = 0  # events that the log has, and lacks, although no import was interrupted

    async def validate(self, reader: ExportReader, progress: Callable[[int], None]) -> int:
        """Read and check the whole file. Returns the number of its events. Raises ExportFileError, ImportRefused."""
        for page in _pages(reader):
            looked_up = [row for _, row in page if row.version == 1 or self._is_fresh_resume]
            present = await self._target.present(looked_up)
            for number, row in page:
                self._check_row(number, row, present.get((row.stream_id, row.version)))
            progress(reader.events)
        if self._copied and self._missing:
            raise ImportRefused(
                f"nothing was written: {self._copied:,} events of this file are in the log, {self._missing:,} are not,"
                " and no import of it was interrupted: --resume goes on with the very file that was being imported;"
                " import this one into another log, or leave out the sessions that are there with --skip-existing"
            )
        if self._clashes:
            named = ", ".join(self._clashes[:NAMED_MAX]) + (" and others" if len(self._clashes) > NAMED_MAX else "")
            raise ImportRefused(
                f"nothing was written: the log has sessions of this file already ({named}); --skip-existing leaves"
                " those out, --resume goes on with an import that was interrupted"
            )
        for stream_id, _, position in self._target.index.unexplained(1):
            raise ImportRefused(
                f"nothing was written: content of session {stream_id} is gone at position {position}"
                " and no later event says why"
            )
        return reader.events

    @property
    def _is_fresh_resume(self) -> bool:
        """Whether to resume although no import was interrupted: then the log must have all of the file, or nothing."""
        return self._rules.resume and not self._target.is_resumed

    async def write(self, reader: ExportReader, progress: Callable[[int], None]) -> None:
        """Copy what `validate` has accepted. Raises as it does."""
        items = reader.items()
        for found in _pages_and_files(items):
            if isinstance(found, MediaStat):
                await self._target.add_media(found, _chunks(items, found.bytes))
            else:
                await self._write_page(found)
                progress(reader.events)

    async def _write_page(self, page: Page) -> None:
        may_be_present = self._rules.skip_existing or self._rules.resume
        present = await self._target.present([row for _, row in page]) if may_be_present else {}
        fresh = []
        for number, row in page:
            if may_be_present and self._is_already_imported(number, row, present.get((row.stream_id, row.version))):
                self.skipped += 1
            else:
                fresh.append(_without_node(row))
        await self._target.add(fresh, self._origin)

    def _check_row(self, number: int, row: StoredRow, present: PresentEvent | None) -> None:
        index = self._target.index
        if row.version != index.version(row.stream_id) + 1:
            raise ImportRefused(f"line {number}: version {row.version} of a session does not follow the one before")
        index.set_version(row.stream_id, row.version)
        if row.type in ERASURE_TYPES:
            index.mark_explained(row.stream_id)
            index.remove_owed_replies(row.stream_id)
        index.mark_explained(row.stream_id, redacted_versions(row))
        if row.data is None:
            index.mark_erased(row.stream_id, row.version, row.position)
        self._track_owed_replies(row)
        copied = self._rules.resume and present is not None and present.imported == self._source(row)
        if self._is_fresh_resume and not index.is_skipped(row.stream_id):
            self._copied += copied
            self._missing += present is None
        if present is None or copied or row.version > 1:
            return
        if self._rules.skip_existing:
            index.skip(row.stream_id)
        elif len(self._clashes) <= NAMED_MAX:
            self._clashes.append(row.stream_id)

    def _track_owed_replies(self, row: StoredRow) -> None:
        """Update the open replies of the stream."""
        if row.data is None or not is_known(row.type, row.schema_version):
            return
        match event := decode(row.type, row.schema_version, row.data):
            case MessagePosted() | ReplyRequested() | ReplyStarted():
                if event.reply_id is not None:
                    self._target.index.add_owed_reply(row.stream_id, event.reply_id)
            case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted() | MessageWithdrawn():
                self._target.index.remove_owed_replies(row.stream_id, event.reply_id)
            case (
                SessionCreated()
                | MetadataChanged()
                | SessionAccessed()
                | SessionRead()
                | SessionViewed()
                | SessionExpired()
                | SessionDeleted()
                | ReplyProgressed()
                | BranchSelected()
                | HistoryAdopted()
                | MessageCopied()
                | MessageRedacted()
                | ContentErased()
                | ToolCallsClosed()
                | ReservedEvent()
            ):
                pass
            case _:
                assert_never(event)

    def _is_already_imported(self, number: int, row: StoredRow, present: PresentEvent | None) -> bool:
        """Whether the event is not written: the log has it, or its stream is skipped. Raises ImportRefused."""
        same = present is not None and present.commitment == row.commitment
        copied = present is not None and present.imported == self._source(row)
        if present is not None and (same or copied):
            self._target.note_present(row, present.position)
        if self._target.index.is_skipped(row.stream_id):
            return True
        if present is None:
            return False
        if copied and (same or row.type in NODE_NAMING_TYPES or row.type == HISTORY_ADOPTED):
            return True
        raise ImportRefused(
            f"line {number}: session {row.stream_id} has another event as its version {row.version}: it has gone on"
            " since the import was interrupted; import into another log"
        )

    def _source(self, row: StoredRow) -> str:
        return f"{self._origin}:{row.position}"


def _without_node(row: StoredRow) -> StoredRow:
    """`row` without the id of a node; its content, salt and commitment change, too."""
    if row.type not in NODE_NAMING_TYPES or row.data is None:
        return row
    data = msgspec.json.decode(row.data)
    if not data.get("node"):
        return row
    if NODE_NAMING_TYPES[row.type]:
        data["node"] = ""
    else:
        del data["node"]
    return with_data(row, msgspec.json.encode(data), os.urandom)


def _pages(reader: ExportReader) -> Iterator[Page]:
    """Only the events of the file."""
    return (found for found in _pages_and_files(reader.rows()) if not isinstance(found, MediaStat))


def _pages_and_files(items: Iterable[tuple[int, Item]]) -> Iterator[Page | MediaStat]:
    """Events in pages of up to ROWS_MAX rows or about PAGE_BYTES_MAX. A file comes before the events that follow it in
    `items`; its bytes are next there. Those that are not taken from there until the next page are passed over.
    """
    page: Page = []
    size = 0
    for number, item in items:
        match item:
            case StoredRow():
                page.append((number, item))
                size += len(item.data or "")
            case MediaStat():
                yield item
            case bytes():
                pass
            case _:
                assert_never(item)
        if len(page) == ROWS_MAX or size >= PAGE_BYTES_MAX:
            yield page
            page, size = [], 0
    if page:
        yield page


async def _chunks(items: Iterator[tuple[int, Item]], size: int) -> AsyncIterator[bytes]:
    """The bytes of a file of this size, which are next in `items`."""
    for _, chunk in items:
        if isinstance(chunk, bytes):
            yield chunk
            size -= len(chunk)
        if not size:
            return
