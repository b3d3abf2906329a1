"""Lenient JSON parsing for what model servers really send: byte order marks, invalid UTF-8, and characters that are
split over two documents. Slow; used only if a strict decoder fails. Pure."""

import codecs
import json
import re
from typing import Any

BOM = b"\xef\xbb\xbf"
REPLACEMENT = "\ufffd"

_SURROGATE = re.compile("[\ud800-\udfff]")
_NON_BYTE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # a surrogate that stands for no byte (see load)
_HIGH_SURROGATES = ("\ud800", "\udbff")


def load(data: bytes) -> Any:
    """A JSON value. An invalid byte becomes a surrogate U+DC80 to U+DCFF (PEP 383), and halves of surrogate pairs are
    kept: TextJoiner makes text of both. Raises ValueError, RecursionError."""
    return json.loads(data.removeprefix(BOM).decode("utf-8", "surrogateescape"))


def without_surrogates(text: str) -> str:
    """`text` with U+FFFD for each surrogate: neither UTF-8 nor a cursor knows half a character."""
    return text if text.isascii() else _SURROGATE.sub(REPLACEMENT, text)


def text_of(content: Any) -> str | None:
    """The text of a message's content: a string, or a list of parts, of which only those of text count.

    "" for an empty value of any type; None for another type.
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

    join() takes the result of load() or of a strict decoder. `has_partial`: the start of a character is kept for the
    next piece.
    """

    def __init__(self) -> None:
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._high_surrogate = ""

    @property
    def has_partial(self) -> bool:
        return bool(self._high_surrogate) or bool(self._bytes.getstate()[0])

    def join(self, piece: str) -> str:
        """The complete characters of what was kept and of `piece`, without surrogates."""
        text = self._high_surrogate + piece
        self._high_surrogate = ""
        if not text.isascii():
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
            if _HIGH_SURROGATES[0] <= text[-1] <= _HIGH_SURROGATES[1]:
                text, self._high_surrogate = text[:-1], text[-1]
            text = _NON_BYTE_SURROGATE.sub(REPLACEMENT, text)
        return self._bytes.decode(text.encode("utf-8", "surrogateescape"))

    def end(self) -> str:
        """A replacement for a character that stays incomplete."""
        high_surrogate, self._high_surrogate = self._high_surrogate, ""
        return self._bytes.decode(b"", final=True) + (REPLACEMENT if high_surrogate else "")
