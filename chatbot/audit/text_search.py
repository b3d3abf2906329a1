"""Byte-wise search for texts in files of any format: every encoding of a text, whole or in pieces. Pure.

SQLite may split a long text at the end of a page and continue it elsewhere, so pieces of it are searched for, too.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec import Struct

CHUNK_BYTES = 1 << 20  # read at once; memory is bounded by this and the longest pattern
PIECE_BYTES = (16, 256)  # shorter pieces match by chance; longer ones may themselves be split by a page


class Pattern(Struct, frozen=True):
    """Bytes to search for: text number `check` (from 1) in one of its encodings, or a piece of that."""

    check: int
    written: bytes
    is_piece: bool = False


def patterns_of(texts: Sequence[str]) -> list[Pattern]:
    """Every encoding in which this program or another JSON writer may have written `texts`, whole and in pieces."""
    patterns: list[Pattern] = []
    for check, text in enumerate(texts, start=1):
        written = sorted(_encodings(text), key=len, reverse=True)
        patterns += [Pattern(check, encoding) for encoding in written]
        patterns += [Pattern(check, piece, is_piece=True) for encoding in written for piece in _cut_pieces(encoding)]
    return patterns


def search(read: Callable[[int], bytes], patterns: Sequence[Pattern]) -> Iterator[tuple[int, Pattern]]:
    """Offset and pattern of each match in the bytes that `read` returns, chunk by chunk until it returns none.

    A match of a piece inside a match of the whole text is left out.
    """
    kept, at = b"", 0
    overlap = max(len(pattern.written) for pattern in patterns) - 1
    while chunk := read(CHUNK_BYTES):
        text = kept + chunk
        whole: list[tuple[int, int, int]] = []
        for pattern in patterns:
            # A match that ends within the kept bytes was yielded with the chunk before.
            for start in _find_offsets(text, pattern.written, max(0, len(kept) - len(pattern.written) + 1)):
                end = start + len(pattern.written)
                if not pattern.is_piece:
                    whole.append((pattern.check, start, end))
                elif any(check == pattern.check and first <= start and end <= last for check, first, last in whole):
                    continue
                yield at + start, pattern
        keep = min(overlap, len(text))
        at += len(text) - keep
        kept = text[len(text) - keep :]


def _find_offsets(text: bytes, written: bytes, start: int) -> Iterator[int]:
    offset = text.find(written, start)
    while offset >= 0:
        yield offset
        offset = text.find(written, offset + 1)


def _encodings(text: str) -> set[bytes]:
    encodings: set[bytes] = set()
    for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)):
        escaped = json.dumps(form)[1:-1]  # \uXXXX for everything that is not ASCII
        upper = re.sub(r"\\u[0-9a-f]{4}", lambda found: r"\u" + found[0][2:].upper(), escaped)
        ours = msgspec.json.encode(form)[1:-1]  # quotes, backslashes and control characters
        encodings |= {form.encode(), ours, escaped.encode(), upper.encode()}
    return encodings


def _cut_pieces(written: bytes) -> list[bytes]:
    """Pieces such that at least one is intact wherever the text was split in two."""
    shortest, longest = PIECE_BYTES
    size = min(longest, len(written) // 2)
    if size < shortest:
        return []
    return [written[start : start + size] for start in range(0, len(written) - size + 1, size)]
