"""Commitments of events with parts: each part has its own salt and commitment, so that a later version can erase one
part and still prove the others.

`data` of such an event begins with its parts and its content, whatever the order of the event's fields:

    {"type":"<type>","parts":[P1,...,Pn],"content":C,R      R: the other fields up to the end, `"reply_id":"..."}`

    salt       = S0 || S1 || ... || Sn                 16 random bytes each
    ci         = SHA-256(Si || Pi)                     Pi: the bytes of the part's JSON text
    commitment = SHA-256(S0 || n || c1 || ... || cn || R)      n: unsigned 64-bit big-endian

Once a part is redacted, its salt is gone, and ci stands in its place (`kept_salt`): the parts that are left still
follow from the commitment, and nothing tells what was redacted.

C is not hashed: it must equal the text of the text parts, and every check compares the two. An event without parts has
one salt of 16 bytes and the commitment of `hash_chain.py`. So the length of the salt tells the two forms apart, and no
input of one hash can be an input of the other: its 17th byte is `{` there, and here zero, the first byte of n.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec import Raw, Struct

from events.integrity.hash_chain import DIGEST_BYTES, SALT_BYTES, pack_length

REDACTED = "redacted"  # the tag of events.schema.parts.Redacted
Fields = dict[str, Raw]  # of `data`, as encoded

_sha256 = hashlib.sha256
_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(Fields).decode


class _Layout(Struct):
    parts: list[Raw]
    content: Raw


class _PartText(Struct):
    type: str
    text: str = ""


_decode_layout = msgspec.json.Decoder(_Layout).decode
_decode_part_text = msgspec.json.Decoder(_PartText).decode
_decode_content = msgspec.json.Decoder(str).decode


def with_parts_first(data: bytes) -> bytes:
    """`data` of an event with parts, its fields in the order that the commitment requires."""
    fields = _decode_fields(data)
    first = {name: fields.pop(name) for name in ("type", "parts", "content")}
    return _encode({**first, **fields})


def commit_parts(kind: bytes, data: bytes, random_bytes: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """A new salt, and the commitment, of an event of type `kind` whose `data` has its parts first."""
    parts, _, rest = _split(kind, data)
    salt = b"".join([random_bytes(SALT_BYTES) for _ in range(len(parts) + 1)])
    return salt, _commit(salt, parts, rest)


def find_fault(kind: bytes, data: bytes, salt: bytes, commitment: bytes) -> str | None:
    """Why an event with parts is not what was recorded; None if it is. Raises ValueError for malformed data."""
    parts, content, rest = _split(kind, data)
    if len(salt) != SALT_BYTES * (len(parts) + 1):
        return "the salt does not have the length that the parts need"
    if _commit(salt, parts, rest) != commitment:
        return "content, salt or commitment was changed"
    return _content_fault(parts, content)


def kept_salt(kind: bytes, before: tuple[bytes, bytes], data: bytes, *, is_kept: bool = False) -> bytes:
    """The salt of `data`, in which parts of an earlier content are redacted: S0, then for each part its salt or, where
    it is redacted, its commitment. `before` is the earlier data and its salt; `is_kept`: that is such a salt itself.
    Empty if `data` differs in more than that: then nothing proves what is left. Raises ValueError for malformed data.
    """
    earlier_parts, _, earlier_rest = _split(kind, before[0])
    parts, _, rest = _split(kind, data)
    if rest != earlier_rest or len(parts) != len(earlier_parts) or not before[1]:
        return b""
    earlier = list(_salts(before[1], earlier_parts, is_kept=is_kept))
    salts = [earlier[0]]
    for part, earlier_part, salt in zip(parts, earlier_parts, earlier[1:], strict=True):
        if _is_redacted(part):
            salts.append(_commit_part(salt, earlier_part))
        elif part == earlier_part:
            salts.append(salt)
        else:
            return b""
    return b"".join(salts)


def find_kept_fault(kind: bytes, data: bytes, salt: bytes, commitment: bytes) -> str | None:
    """Why what is left of a redacted event is not what was recorded; None if it is. Raises ValueError for malformed
    data.
    """
    parts, content, rest = _split(kind, data)
    first, *salts = _salts(salt, parts, is_kept=True)
    hashed = [_commit_part(one, part) for one, part in zip(salts, parts, strict=True)]
    if _sha256(b"".join((first, pack_length(len(parts)), *hashed, rest))).digest() != commitment:
        return "what is left of it is not what was recorded"
    return _content_fault(parts, content)


def _salts(salt: bytes, parts: Sequence[bytes], *, is_kept: bool) -> Iterator[bytes]:
    """S0, then one for each part. Raises ValueError for a salt of another length."""
    sizes = [SALT_BYTES, *(DIGEST_BYTES if is_kept and _is_redacted(part) else SALT_BYTES for part in parts)]
    if sum(sizes) != len(salt):
        raise ValueError("the salt does not have the length that the parts need")
    at = 0
    for size in sizes:
        yield salt[at : at + size]
        at += size


def _commit_part(salt: bytes, part: bytes) -> bytes:
    """The commitment of a part; `salt` is that already where it is as long as one."""
    return salt if len(salt) == DIGEST_BYTES else _sha256(salt + part).digest()


def _is_redacted(part: bytes) -> bool:
    return _decode_part_text(part).type == REDACTED


def _content_fault(parts: Sequence[bytes], content: bytes) -> str | None:
    texts = [part.text for part in map(_decode_part_text, parts) if part.type == "text"]
    return None if _decode_content(content) == "".join(texts) else "the content is not the text of the parts"


def _split(kind: bytes, data: bytes) -> tuple[list[bytes], bytes, bytes]:
    """The parts, the content, and the remaining bytes. Raises ValueError for any other layout."""
    layout = _decode_layout(data)
    parts, content = [bytes(part) for part in layout.parts], bytes(layout.content)
    head = b'{"type":"%b","parts":[%b],"content":%b,' % (kind, b",".join(parts), content)
    if not parts or not data.startswith(head):
        raise ValueError("the data does not begin with type, parts and content")
    return parts, content, data[len(head) :]


def _commit(salt: bytes, parts: Sequence[bytes], rest: bytes) -> bytes:
    hashed = [
        _sha256(salt[at : at + SALT_BYTES] + part).digest()
        for at, part in zip(range(SALT_BYTES, len(salt), SALT_BYTES), parts, strict=True)
    ]
    return _sha256(b"".join((salt[:SALT_BYTES], pack_length(len(parts)), *hashed, rest))).digest()
