"""Decodes bodies that a model server, or a proxy before it, compresses although we ask for `identity` (RFC 9110, 8.4).

Pure.
"""

import zlib
from collections.abc import Iterator

from chatbot.llm.provider import LlmFailed

GZIP_MAGIC = b"\x1f\x8b"
START_BYTES = 8  # enough to detect the format: no complete body is shorter
PIECE_BYTES = 65_536  # inflated at a time; the consumer has its own bounds
INFLATED_MAX_BYTES = 16_777_216  # of one read, of at most 256 KiB: a stream of text grows less than fifty-fold
_TEXT_STARTS = (b"{", b"[", b":", b"data", b"event", b"id", b"retry")  # of JSON and of event streams


class ContentDecoder:
    """Decodes a body. Its first bytes decide on the format, not the label, which proxies get wrong."""

    def __init__(self, label: str) -> None:
        """`label`: the value of Content-Encoding, '' where there is none."""
        self._label = label.strip().lower()
        self._inflater: zlib._Decompress | None = None
        self._start = b""
        self._is_known = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The plain bytes in `data`, in bounded pieces. Raises LlmFailed."""
        if not self._is_known:
            self._start += data
            if len(self._start) < START_BYTES:
                return
            data, self._start = self._start, b""
            self._inflater = self._choose_decoder(data)
            self._is_known = True
        if self._inflater is None:
            yield data
        else:
            yield from _inflate(self._inflater, data)

    def end(self) -> bytes:
        """The rest: a body that was too short to detect its format."""
        return self._start

    def _choose_decoder(self, data: bytes) -> "zlib._Decompress | None":
        if data.startswith(GZIP_MAGIC):
            return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        if data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0:  # the head of zlib's format (RFC 1950)
            return zlib.decompressobj()
        is_text = data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_TEXT_STARTS)
        if is_text or self._label in ("", "identity", "gzip", "x-gzip"):
            return None
        if self._label == "deflate":  # some servers leave out the head
            return zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        raise LlmFailed(f"The model server's answer is compressed as {self._label[:32]!r}, which was not asked for")


def _inflate(inflater: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    inflated = 0
    has_more = bool(data)
    while has_more and not inflater.eof:
        try:
            piece = inflater.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise LlmFailed("The model server's compressed answer is damaged") from error
        inflated += len(piece)
        if inflated > INFLATED_MAX_BYTES:
            raise LlmFailed(f"The model server's compressed answer exceeds {INFLATED_MAX_BYTES} bytes in one read")
        data = inflater.unconsumed_tail
        has_more = bool(data) or len(piece) == PIECE_BYTES  # a full piece: the inflater may hold the rest of a match
        if piece:
            yield piece
