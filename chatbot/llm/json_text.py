"""JSON as model servers really write it: with byte order marks, bytes that are no UTF-8, and characters that are split
over two documents. Slow and lenient; the fast decoders come first. Pure."""

import codecs
import json
import re
from typing import Any

BOM = b"\xef\xbb\xbf"
REPLACEMENT = "\ufffd"

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # a surrogate that stands for no byte (see load)
_FIRST_HALVES = ("\ud800", "\udbff")


def load(data: bytes) -> Any:
    """A JSON value. A byte that is no UTF-8 becomes the surrogate U+DC80 to U+DCFF (PEP 383), and halves of surrogate
    pairs stay as they are: TextJoiner makes text of both. Raises ValueError, RecursionError."""
    return json.loads(data.removeprefix(BOM).decode("utf-8", "surrogateescape"))


def without_surrogates(text: str) -> str:
    """`text` with U+FFFD for each surrogate: neither UTF-8 nor a cursor knows half a character."""
    return text if text.isascii() else _SURROGATE.sub(REPLACEMENT, text)


def text_of(content: Any) -> str | None:
    """The text of a message's content: a string, or a list of parts, of which only those of text count.

    None where it is neither, and no empty value.
    """
    if isinstance(content, str):
        return content
    if not content:
        return ""
    if isinstance(content, dict):
        content = [content]
    return "".join(map(_part_text, content)) if isinstance(content, list) else None


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type", "text") not in ("text", "output_text"):
        return ""
    text = part.get("text")
    if isinstance(text, dict):
        text = text.get("value")
    return text if isinstance(text, str) else ""


class TextJoiner:
    """Joins text whose characters were split over several JSON documents, as escapes or as bytes.

    Feed it what load() or a strict decoder gives. `has_rest`: a beginning is kept for the next piece.
    """

    def __init__(self) -> None:
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._half = ""

    @property
    def has_rest(self) -> bool:
        return bool(self._half) or bool(self._bytes.getstate()[0])

    def join(self, piece: str) -> str:
        """`piece` with no surrogate in it, after what the last one left, and without the beginning at its end."""
        text = self._half + piece
        self._half = ""
        if not text.isascii():
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
            if _FIRST_HALVES[0] <= text[-1] <= _FIRST_HALVES[1]:
                text, self._half = text[:-1], text[-1]
            text = _NO_BYTE.sub(REPLACEMENT, text)
        return self._bytes.decode(text.encode("utf-8", "surrogateescape"))

    def end(self) -> str:
        """What is left when nothing more comes."""
        half, self._half = self._half, ""
        return self._bytes.decode(b"", final=True) + (REPLACEMENT if half else "")
