"""A blind index: metadata as keyed hashes ("labels"), so that sessions are found by it and projections.db has no words.

Names and texts are compared in Unicode's NFC form: "é" may be one code point or two, and a person who is searched for
in one form must be found in the other.

A label is 64 bits. Two entries may share one by chance, so a search by label compares the recorded metadata with
`metadata_matches` before it answers.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

LABEL_KEY_BYTES = 32
_encoder = msgspec.json.Encoder()


def compute_label(key: bytes, name: str, text: str) -> int:
    """The label of one metadata entry, as a signed 64-bit integer, the type that SQLite stores."""
    entry = _encoder.encode((normalize_nfc(name), normalize_nfc(text)))
    return int.from_bytes(hashlib.blake2b(entry, digest_size=8, key=key).digest(), "big", signed=True)


def compute_labels(key: bytes, metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """The labels of all top-level scalars of `metadata`, without repeats."""
    return tuple(dict.fromkeys(compute_label(key, name, text) for name, text in _texts(metadata)))


def compute_key_label(key: bytes, idempotency_key: str) -> int:
    """The label of an idempotency key, with another hash personalisation than metadata's."""
    digest = hashlib.blake2b(idempotency_key.encode(), digest_size=8, key=key, person=b"idempotency")
    return int.from_bytes(digest.digest(), "big", signed=True)


def scalar_text(value: Any) -> str | None:
    """A metadata value as a query parameter: true, 12, 1.5, null or the text itself. None for lists and objects."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple):
        return None
    return _encoder.encode(value).decode()


def normalize_nfc(text: str) -> str:
    """`text` in NFC, for comparison. The log stores it as it was sent."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def metadata_matches(metadata: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether `metadata` has every wanted entry, which equal labels only make very likely."""
    entries = {(normalize_nfc(name), normalize_nfc(text)) for name, text in _texts(metadata)}
    return all((normalize_nfc(name), normalize_nfc(text)) in entries for name, text in wanted.items())


def _texts(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in metadata.items():
        text = scalar_text(value)
        if text is not None:
            yield name, text
