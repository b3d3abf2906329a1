"""The command erased: a byte-wise scan for residues of erased texts and files in the files of the log and the
projections.
"""

import argparse
import asyncio
import os
import re
import stat
import sys
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from chatbot.audit.text_search import Pattern, patterns_of, search
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.erasure.file_copy import FileCopy, read_copy
from chatbot.cli.exit_codes import UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.remedies import with_remedy
from chatbot.runtime.utf8 import is_unicode
from events.errors import LogError, LogUnusable
from events.media import MediaReference
from events.record import StoredRow
from events.storage.sqlite.sqlite_schema import APPLICATION_ID
from projections.sqlite.projection_paths import list_projection_files

TEXT_BYTES_MAX = 65_536  # of one text to search for
MATCHES_MAX = 100  # of a text, reported for one file: the first ones are enough to act on
PAGE = 500  # rows of the log searched at once
APPLICATION_ID_OFFSET = 68  # of the application's mark in an SQLite file (https://www.sqlite.org/fileformat.html, 1.3)
PASSES_MAX = 10  # over the folders: each pass after the first finds files that were created since

Inode = tuple[int, int]  # device and inode number, which a rename keeps


class TextMatch(Struct, frozen=True, omit_defaults=True):
    """Text number `check` was found: at `offset` (bytes) of `file`, or in an event of the log that is not erased. Of a
    file, which are counted after the texts: an event that refers to it, or an upload of `owner` ("": without a key).

    `is_piece`: only a piece of it, which may be coincidence. Of a file that was looked for there is one match in each
    file, at the first piece; `pieces` is the number of matches of pieces there, of which MATCHES_MAX are counted.
    """

    check: int
    file: str
    offset: int | None = None
    position: int | None = None
    session_id: str | None = None
    is_piece: bool = False
    pieces: int = 0
    owner: str | None = None


def add_erased_arguments(parser: argparse.ArgumentParser) -> None:
    what = "the text to look for, as it was written; - reads one from each line of standard input"
    parser.add_argument("--check", dest="texts", action="append", default=[], metavar="TEXT", help=what)
    what = "a copy of a file that messages had"
    parser.add_argument("--check-file", dest="files", action="append", default=[], type=Path, metavar="FILE", help=what)


async def erased(context: CommandContext, options: argparse.Namespace) -> int:
    """Look for texts and files in the bytes of the log, the projections and their side files. Exit code 1: found."""
    if not (options.texts or options.files):
        raise UsageError("name what to look for: --check TEXT or --check-file FILE")
    texts = _read_texts(options.texts) if options.texts else []
    copies = [await asyncio.to_thread(read_copy, file) for file in options.files]
    numbered = dict(enumerate(copies, start=len(texts) + 1))
    patterns = patterns_of(texts)
    for check, copy in numbered.items():
        patterns += [Pattern(check, piece, is_piece=not copy.is_whole) for piece in copy.pieces]
    log = context.log_file("search the server's own files; what a VACUUM leaves of erased rows, VACUUM FULL takes")
    if not await asyncio.to_thread(log.exists):
        raise LogUnusable(f"database {log} does not exist")
    if not await asyncio.to_thread(_has_log_mark, log):
        raise LogUnusable(f"database {log} is no log of this program: nothing would be proven")
    found, searched = 0, dict[Path, int]()
    async for file, size, matches in _search_files(patterns, log, context.settings.database.projections):
        for match in (merged := _merge_pieces(matches, numbered)):
            context.print_json(match)
        found, searched[file] = found + len(merged), size
    async for match in _search_events(context, patterns, numbered):
        context.print_json(match)
        found += 1
    verdict = "found: see the lines above" if found else "found nowhere"
    context.print_note(
        f"{verdict}; searched {sum(searched.values()):,} bytes of {', '.join(file.name for file in searched)}"
    )
    return 1 if found else 0


def _has_log_mark(file: Path) -> bool:
    """By the application id alone: a damaged log is searched, too."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(APPLICATION_ID_OFFSET + 4)[APPLICATION_ID_OFFSET:] == APPLICATION_ID.to_bytes(4, "big")


async def _search_files(
    patterns: Sequence[Pattern], log: Path, projections: Path
) -> AsyncIterator[tuple[Path, int, list[TextMatch]]]:
    """Each file with its size and matches. Files that are created or renamed during the scan are searched, too."""
    seen: set[Inode] = set()
    progress, done = ProgressBar("searching", 0, "bytes"), 0
    for _ in range(PASSES_MAX):
        files = await asyncio.to_thread(_files_to_search, log, projections, seen)
        progress.total += sum(files.values())
        for file, size in files.items():
            try:
                inode, matches = await asyncio.to_thread(_search_file, file, patterns)
            except FileNotFoundError:  # deleted, or renamed: then the next pass finds it
                continue
            seen.add(inode)
            done += size
            progress.reach(done)
            yield file, size, matches
        if not files:
            break
    progress.close()


def _search_file(file: Path, patterns: Sequence[Pattern]) -> tuple[Inode, list[TextMatch]]:
    matches: list[TextMatch] = []
    left = dict.fromkeys((pattern.check for pattern in patterns), MATCHES_MAX)
    with file.open("rb") as opened:
        inode = _inode(os.fstat(opened.fileno()))
        for offset, pattern in search(opened.read, patterns):
            if left[pattern.check]:
                left[pattern.check] -= 1
                matches.append(TextMatch(pattern.check, str(file), offset, is_piece=pattern.is_piece))
            elif not any(left.values()):
                break
    return inode, matches


def _merge_pieces(matches: Sequence[TextMatch], of_files: Mapping[int, FileCopy]) -> list[TextMatch]:
    """The matches in one file, with one for each file that was looked for."""
    merged = [one for one in matches if one.check not in of_files]
    for check in of_files:
        pieces = [one for one in matches if one.check == check]
        if pieces:
            first = min(pieces, key=lambda one: one.offset or 0)
            merged.append(replace(first, pieces=len(pieces)))
    return merged


async def _search_events(
    context: CommandContext, patterns: Sequence[Pattern], copies: Mapping[int, FileCopy]
) -> AsyncIterator[TextMatch]:
    """The matches in events that are not erased, and the events that refer to a file: these explain matches in the
    log's file.
    """
    after, count = 0, 0
    try:
        async with context.open_read_only() as log:
            for check, copy in copies.items():
                for held in await log.media.references(copy.sha256, limit=MATCHES_MAX):
                    yield _describe_reference(check, str(context.log_name), held)
            while (page := await log.rows(after=after, limit=PAGE)) and count < MATCHES_MAX:
                for row in page:
                    for check, is_piece in _search_row(row, patterns).items():
                        yield TextMatch(check, str(context.log_name), None, row.position, row.stream_id, is_piece)
                        count += 1
                after = page[-1].position
    except LogError as error:
        context.print_note(f"the log's events were not looked at one by one: {with_remedy(error)}")


def _describe_reference(check: int, file: str, held: MediaReference) -> TextMatch:
    if held.position == 0:
        return TextMatch(check, file, owner=held.holder)
    return TextMatch(check, file, None, held.position, held.holder)


def _search_row(row: StoredRow, patterns: Sequence[Pattern]) -> dict[int, bool]:
    """The checks that match the row's texts, each with whether only a piece matches."""
    texts = f"{row.stream_id}\n{row.metadata}\n{row.data or ''}".encode(errors="surrogateescape")
    matched: dict[int, bool] = {}
    for pattern in patterns:
        if pattern.check not in matched and pattern.written in texts:
            matched[pattern.check] = pattern.is_piece
    return matched


def _files_to_search(log: Path, projections: Path, seen: Set[Inode]) -> dict[Path, int]:
    """Files that the service or its commands have made, with their sizes, without those already `seen`."""
    entries = sorted(log.parent.iterdir())
    logs = "|".join(re.escape(one.name) for one in entries if one == log or _is_copy(one))
    of_log = re.compile(rf"({logs})(-[a-z]+)*|.*\.partial(-[a-z]+)*")  # an unfinished backup, too
    files = [one for one in entries if of_log.fullmatch(one.name)]
    sizes: dict[Path, int] = {}
    for file in dict.fromkeys([*files, *list_projection_files(projections)]):
        with suppress(FileNotFoundError):
            found = file.stat()
            if stat.S_ISREG(found.st_mode) and _inode(found) not in seen:
                sizes[file] = found.st_size
    return sizes


def _is_copy(file: Path) -> bool:
    """Whether it is a log of this program, such as a backup. A file that may not be read or is gone is none."""
    try:
        return _has_log_mark(file)
    except (FileNotFoundError, PermissionError):
        return False


def _inode(found: os.stat_result) -> Inode:
    return found.st_dev, found.st_ino


def _split_lines(text: str) -> list[str]:
    """Split at line feeds only: a text may contain the other characters that Unicode counts as line ends."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _read_texts(arguments: Sequence[str]) -> list[str]:
    texts = [line for text in arguments for line in (_split_lines(sys.stdin.read()) if text == "-" else [text])]
    for text in texts:
        if not is_unicode(text):
            raise UsageError("--check: the text is not UTF-8")
        if not 0 < len(text.encode()) <= TEXT_BYTES_MAX:
            raise UsageError(f"--check: a text has 1 to {TEXT_BYTES_MAX:,} bytes")
    if not texts:
        raise UsageError("--check: no text was given")
    return texts
