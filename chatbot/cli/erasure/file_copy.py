"""A copy of a file that messages had, and the pieces of it that are searched for in the files of the service.

The log keeps a file in chunks on many pages, so that what is left of it anywhere may be any part. A piece may be cut by
the border of a page; not all of them are.
"""

import hashlib
from pathlib import Path

from msgspec import Struct

from chatbot.cli.exit_codes import UsageError

PIECES_MAX = 256  # each costs a pass over every file
PIECE_BYTES = 48  # far from coincidence, and in an image seldom twice
DISTINCT_MIN = 16  # different bytes in a piece: rows of zeros and the like are in many files
READ_BYTES = 2**20


class FileCopy(Struct, frozen=True):
    """`pieces` are spread evenly over the file, its beginning and its end among them."""

    sha256: str
    pieces: tuple[bytes, ...]
    is_whole: bool  # the file is so small that the only piece is all of it


def read_copy(path: Path) -> FileCopy:
    """Blocks. Raises UsageError for a file that cannot be read, is empty, or has nothing that could be recognized."""
    try:
        with path.open("rb") as file:
            digest, size = hashlib.sha256(), 0
            while read := file.read(READ_BYTES):
                digest.update(read)
                size += len(read)
            pieces = []
            last = max(size - PIECE_BYTES, 0)
            for offset in sorted({last * index // (PIECES_MAX - 1) for index in range(PIECES_MAX)}):
                file.seek(offset)
                pieces.append(file.read(PIECE_BYTES))
    except OSError as error:
        raise UsageError(f"--check-file: cannot read {path}: {error.strerror}") from error
    told = tuple(dict.fromkeys(piece for piece in pieces if len(set(piece)) >= min(DISTINCT_MIN, size)))
    if not told or not size:
        raise UsageError(
            f"--check-file: {path} has no {PIECE_BYTES} bytes that could be told from those of other files"
        )
    return FileCopy(digest.hexdigest(), told, size <= PIECE_BYTES)
