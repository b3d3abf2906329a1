"""Bodies that come compressed though nobody asked for that."""

import gzip
import zlib

import pytest

from chatbot.llm.http.content_decoder import INFLATED_MAX_BYTES, PIECE_BYTES, ContentDecoder
from chatbot.llm.provider import LlmFailed

PLAIN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n' * 20


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def decoded(label: str, pieces: list[bytes]) -> bytes:
    decoder = ContentDecoder(label)
    return b"".join(part for piece in pieces for part in decoder.feed(piece)) + decoder.end()


@pytest.mark.parametrize(
    ("label", "body"),
    [
        ("", PLAIN),
        ("identity", PLAIN),
        ("gzip", PLAIN),
        ("deflate", PLAIN),
        ("br", PLAIN),
        ("br", b'\xef\xbb\xbf  {"a": 1}' + PLAIN),
        ("gzip", gzip.compress(PLAIN, mtime=0)),
        ("", gzip.compress(PLAIN, mtime=0)),
        ("deflate", gzip.compress(PLAIN, mtime=0)),
        ("X-GZIP", gzip.compress(PLAIN, mtime=0)),
        ("deflate", zlib.compress(PLAIN)),
        ("", zlib.compress(PLAIN)),
        ("deflate", raw_deflate(PLAIN)),
    ],
)
def test_the_first_bytes_decide_not_the_label(label: str, body: bytes) -> None:
    expected = body if body.endswith(PLAIN) else PLAIN
    assert decoded(label, [body]) == expected
    assert decoded(label, [bytes([each]) for each in body]) == expected


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_a_body_too_short_to_tell_is_plain(body: bytes) -> None:
    assert decoded("gzip", [body]) == body


def test_each_flush_of_the_server_comes_through_at_once() -> None:
    packer, decoder = zlib.compressobj(wbits=zlib.MAX_WBITS | 16), ContentDecoder("gzip")
    for number in range(5):
        event = b"data: %d\n\n" % number
        assert b"".join(decoder.feed(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))) == event


def test_nothing_is_lost_where_a_piece_ends_within_a_match() -> None:
    for length in range(PIECE_BYTES, PIECE_BYTES + 300):
        body = b"data: " + b"a" * (length - 6)
        assert decoded("deflate", [raw_deflate(body)]) == body


def test_what_follows_a_compressed_body_is_not_read() -> None:
    assert decoded("gzip", [gzip.compress(PLAIN) + b"rest", b"more"]) == PLAIN


def test_an_unknown_coding_is_named() -> None:
    with pytest.raises(LlmFailed, match="compressed as 'zstd'"):
        decoded("zstd", [b"\x28\xb5\x2f\xfd...."])


def test_damage_is_a_failure() -> None:
    with pytest.raises(LlmFailed, match="damaged"):
        decoded("gzip", [gzip.compress(PLAIN)[:-8] + bytes(8)])


def test_a_bomb_is_inflated_in_bounded_pieces_up_to_a_bound() -> None:
    decoder, sizes = ContentDecoder("gzip"), list[int]()
    with pytest.raises(LlmFailed, match="exceeds"):
        sizes.extend(map(len, decoder.feed(gzip.compress(bytes(2 * INFLATED_MAX_BYTES), 1))))
    decoder = ContentDecoder("gzip")
    packed = gzip.compress(bytes(4 * PIECE_BYTES), 1)
    assert max(map(len, decoder.feed(packed))) <= PIECE_BYTES
