"""The command erased: whether a text is still in any file of the service, byte by byte.

SQLite may cut a long text at the end of a page and go on elsewhere, so pieces of it are looked for, too.
"""

import argparse
import asyncio
import json
import os
import re
import stat
import sys
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator, Sequence, Set
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.runtime.utf8 import is_unicode
from events.errors import LogError, LogUnusable
from events.record import StoredRow
from events.storage.sqlite.sqlite_schema import APPLICATION_ID
from projections.sqlite.projection_paths import list_projection_files

CHUNK_BYTES = 1 << 20  # read at once; memory is this and the longest text
PIECE_BYTES = (16, 256)  # a shorter piece proves nothing; a longer one may itself be cut by a page
TEXT_BYTES_MAX = 65_536  # of one text to look for
MATCHES_MAX = 100  # told of one file: the first ones are enough to act upon
ROWS = 500  # rows of the log looked at together
APPLICATION_ID_OFFSET = 68  # of the application's mark in an SQLite file (https://www.sqlite.org/fileformat.html, 1.3)
PASSES_MAX = 10  # over the folders: each but the first meets files that came meanwhile

Inode = tuple[int, int]  # device and number: what a file keeps when it is renamed


class Pattern(Struct, frozen=True):
    """Bytes to look for: text number `check` (from 1) in one of the ways to write it, or a piece of that."""

    check: int
    written: bytes
    is_piece: bool = False


class TextMatch(Struct, frozen=True, omit_defaults=True):
    """Where text number `check` is: at `offset` (bytes) of `file`, or in an event of the log that is not erased.

    `is_piece`: not the whole of it, which may be chance.
    """

    check: int
    file: str
    offset: int | None = None
    position: int | None = None
    session_id: str | None = None
    is_piece: bool = False


def add_erased_arguments(parser: argparse.ArgumentParser) -> None:
    what = "the text to look for, as it was written; - reads one from each line of standard input"
    parser.add_argument("--check", dest="texts", action="append", required=True, metavar="TEXT", help=what)


async def erased(context: CommandContext, options: argparse.Namespace) -> int:
    """Look for texts in the bytes of the log, the projections and the files beside them. Exit code 1: found."""
    patterns = patterns_of(_read_texts(options.texts))
    log = context.log_file("search the server's own files; what a VACUUM leaves of erased rows, VACUUM FULL takes")
    if not await asyncio.to_thread(log.exists):
        raise LogUnusable(f"database {log} does not exist")
    if not await asyncio.to_thread(_has_log_mark, log):
        raise LogUnusable(f"database {log} is no log of this program: nothing would be proven")
    found, searched = 0, dict[Path, int]()
    async for file, size, matches in _search_files(patterns, log, context.settings.database.projections):
        for find in matches:
            context.print_json(find)
        found, searched[file] = found + len(matches), size
    async for find in _search_events(context, patterns):
        context.print_json(find)
        found += 1
    verdict = "found: see the lines above" if found else "found nowhere"
    context.print_note(
        f"{verdict}; searched {sum(searched.values()):,} bytes of {', '.join(file.name for file in searched)}"
    )
    return 1 if found else 0


def patterns_of(texts: Sequence[str]) -> list[Pattern]:
    """Every way in which this program or another JSON writer may have put `texts` on disk, whole and in pieces."""
    patterns: list[Pattern] = []
    for check, text in enumerate(texts, start=1):
        written = sorted(_encodings(text), key=len, reverse=True)
        patterns += [Pattern(check, encoding) for encoding in written]
        patterns += [Pattern(check, piece, is_piece=True) for encoding in written for piece in _cut_pieces(encoding)]
    return patterns


def search(read: Callable[[int], bytes], patterns: Sequence[Pattern]) -> Iterator[tuple[int, Pattern]]:
    """Offset and pattern of each match in what `read` gives, piece by piece; a piece of a whole match is left out."""
    kept, at = b"", 0
    overlap = max(len(pattern.written) for pattern in patterns) - 1
    while chunk := read(CHUNK_BYTES):
        text = kept + chunk
        whole: list[tuple[int, int, int]] = []
        for pattern in patterns:
            # A match that ends in what was kept has been told already.
            for place in _find_offsets(text, pattern.written, max(0, len(kept) - len(pattern.written) + 1)):
                end = place + len(pattern.written)
                if not pattern.is_piece:
                    whole.append((pattern.check, place, end))
                elif any(check == pattern.check and first <= place and end <= last for check, first, last in whole):
                    continue
                yield at + place, pattern
        keep = min(overlap, len(text))
        at += len(text) - keep
        kept = text[len(text) - keep :]


def _has_log_mark(file: Path) -> bool:
    """By its mark alone: what a damaged log still holds is to be found, too."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(APPLICATION_ID_OFFSET + 4)[APPLICATION_ID_OFFSET:] == APPLICATION_ID.to_bytes(4, "big")


async def _search_files(
    patterns: Sequence[Pattern], log: Path, projections: Path
) -> AsyncIterator[tuple[Path, int, list[TextMatch]]]:
    """Each file with its size and what was found in it. Files that were made or renamed meanwhile are searched, too."""
    seen: set[Inode] = set()
    progress, done = ProgressBar("searching", 0, "bytes"), 0
    for _ in range(PASSES_MAX):
        files = await asyncio.to_thread(_files_to_search, log, projections, seen)
        progress.total += sum(files.values())
        for file, size in files.items():
            try:
                inode, matches = await asyncio.to_thread(_search_file, file, patterns)
            except FileNotFoundError:  # gone, or renamed: then the next pass meets it
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
    with file.open("rb") as opened:
        inode = _inode(os.fstat(opened.fileno()))
        for offset, pattern in search(opened.read, patterns):
            matches.append(TextMatch(pattern.check, str(file), offset, is_piece=pattern.is_piece))
            if len(matches) == MATCHES_MAX:
                break
    return inode, matches


async def _search_events(context: CommandContext, patterns: Sequence[Pattern]) -> AsyncIterator[TextMatch]:
    """The events that hold it and are not erased: of what was found in the log's file, this much is meant to be."""
    after, told = 0, 0
    try:
        async with context.open_read_only() as log:
            while (page := await log.rows(after=after, limit=ROWS)) and told < MATCHES_MAX:
                for row in page:
                    for check, is_piece in _search_row(row, patterns).items():
                        yield TextMatch(check, str(context.log_name), None, row.position, row.stream_id, is_piece)
                        told += 1
                after = page[-1].position
    except LogError as error:
        context.print_note(f"the log's events were not looked at one by one: {error}")


def _search_row(row: StoredRow, patterns: Sequence[Pattern]) -> dict[int, bool]:
    """The checks that the row's texts meet, and whether in a piece only."""
    texts = f"{row.stream_id}\n{row.metadata}\n{row.data or ''}".encode(errors="surrogateescape")
    met: dict[int, bool] = {}
    for pattern in patterns:
        if pattern.check not in met and pattern.written in texts:
            met[pattern.check] = pattern.is_piece
    return met


def _find_offsets(text: bytes, written: bytes, start: int) -> Iterator[int]:
    place = text.find(written, start)
    while place >= 0:
        yield place
        place = text.find(written, place + 1)


def _encodings(text: str) -> set[bytes]:
    encodings: set[bytes] = set()
    for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)):
        escaped = json.dumps(form)[1:-1]  # \uXXXX for all that is not ASCII
        upper = re.sub(r"\\u[0-9a-f]{4}", lambda found: r"\u" + found[0][2:].upper(), escaped)
        ours = msgspec.json.encode(form)[1:-1]  # quotes, backslashes and control characters
        encodings |= {form.encode(), ours, escaped.encode(), upper.encode()}
    return encodings


def _cut_pieces(written: bytes) -> list[bytes]:
    """So cut that one of them is whole wherever the text itself was cut in two."""
    shortest, longest = PIECE_BYTES
    size = min(longest, len(written) // 2)
    if size < shortest:
        return []
    return [written[start : start + size] for start in range(0, len(written) - size + 1, size)]


def _files_to_search(log: Path, projections: Path, seen: Set[Inode]) -> dict[Path, int]:
    """The files that the service or its commands made, and their sizes, but those that have been `seen`."""
    of_log = re.compile(rf"{re.escape(log.name)}(-[a-z]+)*|.*\.partial(-[a-z]+)*")  # an unfinished backup, too
    files = [one for one in sorted(log.parent.iterdir()) if of_log.fullmatch(one.name)]
    sizes: dict[Path, int] = {}
    for file in dict.fromkeys([*files, *list_projection_files(projections)]):
        with suppress(FileNotFoundError):
            found = file.stat()
            if stat.S_ISREG(found.st_mode) and _inode(found) not in seen:
                sizes[file] = found.st_size
    return sizes


def _inode(found: os.stat_result) -> Inode:
    return found.st_dev, found.st_ino


def _split_lines(text: str) -> list[str]:
    """Cut at line feeds alone: a text may hold the other characters that Unicode counts as ends of lines."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _read_texts(asked: Sequence[str]) -> list[str]:
    texts = [line for text in asked for line in (_split_lines(sys.stdin.read()) if text == "-" else [text])]
    for text in texts:
        if not is_unicode(text):
            raise UsageError("--check: the text is not UTF-8")
        if not 0 < len(text.encode()) <= TEXT_BYTES_MAX:
            raise UsageError(f"--check: a text has 1 to {TEXT_BYTES_MAX:,} bytes")
    if not texts:
        raise UsageError("--check: no text was given")
    return texts
