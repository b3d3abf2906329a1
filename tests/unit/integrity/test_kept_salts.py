"""Of an event with parts of which some are redacted, the other parts still follow from the first commitment."""

import hashlib
import struct

from events.integrity.commitments import commit_parts, find_kept_fault, kept_salt

KIND = b"message_posted"
GONE = b'{"type":"redacted","kind":"text","reason_code":"asked"}'
PARTS = (b'{"type":"text","text":"one"}', b'{"type":"text","text":"two"}', b'{"type":"reasoning","text":"three"}')
REST = b'"message_id":"m"}'


def data(parts: tuple[bytes, ...], content: bytes, rest: bytes = REST) -> bytes:
    return b'{"type":"message_posted","parts":[%b],"content":"%b",%b' % (b",".join(parts), content, rest)


def random_bytes(size: int) -> bytes:
    return bytes(range(size))


ALL = data(PARTS, b"onetwo")
SALT, COMMITMENT = commit_parts(KIND, ALL, random_bytes)
ONE_GONE = data((PARTS[0], GONE, PARTS[2]), b"one")


def test_what_is_left_is_computed_from_the_definition() -> None:
    salt = kept_salt(KIND, (ALL, SALT), ONE_GONE)
    second = hashlib.sha256(SALT[32:48] + PARTS[1]).digest()
    assert salt == SALT[:32] + second + SALT[48:]
    first, third = (hashlib.sha256(SALT[at : at + 16] + PARTS[number]).digest() for at, number in ((16, 0), (48, 2)))
    hashed = SALT[:16] + struct.pack(">Q", 3) + first + second + third + REST
    assert hashlib.sha256(hashed).digest() == COMMITMENT
    assert find_kept_fault(KIND, ONE_GONE, salt, COMMITMENT) is None


def test_a_second_redaction_keeps_the_proof() -> None:
    salt = kept_salt(KIND, (ALL, SALT), ONE_GONE)
    two_gone = data((GONE, GONE, PARTS[2]), b"")
    again = kept_salt(KIND, (ONE_GONE, salt), two_gone, is_kept=True)
    assert len(again) == 16 + 32 + 32 + 16
    assert find_kept_fault(KIND, two_gone, again, COMMITMENT) is None


def test_a_changed_part_or_content_is_found() -> None:
    salt = kept_salt(KIND, (ALL, SALT), ONE_GONE)
    other = data((PARTS[0].replace(b"one", b"eno"), GONE, PARTS[2]), b"eno")
    assert find_kept_fault(KIND, other, salt, COMMITMENT) == "what is left of it is not what was recorded"
    assert find_kept_fault(KIND, data((PARTS[0], GONE, PARTS[2]), b"two"), salt, COMMITMENT) is not None


def test_there_is_no_proof_where_more_than_parts_has_changed() -> None:
    assert kept_salt(KIND, (ALL, SALT), data((PARTS[0], GONE, PARTS[2]), b"one", b'"message_id":"n"}')) == b""
    assert kept_salt(KIND, (ALL, SALT), data((PARTS[0], GONE), b"one")) == b""
    assert kept_salt(KIND, (ALL, SALT), data((PARTS[1], GONE, PARTS[2]), b"two")) == b""
