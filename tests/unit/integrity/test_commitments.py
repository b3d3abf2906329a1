"""The commitment of an event with parts."""

import hashlib
import json
import os
import struct

import pytest
from msgspec.structs import replace

from events.catalogue import Event, ReplyCompleted
from events.codec import decode, encode, event_type
from events.integrity.commitments import commit_parts, find_fault
from events.integrity.hash_chain import SALT_BYTES, commit
from events.integrity.row_checks import check_commitment
from events.record import StoredRow
from events.schema.parts import PARTS_MAX, Reasoning, Text
from events.transfer.changed_rows import with_data
from tests.support.log.sample_events import EVENTS_WITH_PARTS, posted

WITH_PARTS = [event for event in EVENTS_WITH_PARTS if getattr(event, "parts", ())]
KIND = b"reply_completed"
EVENT = ReplyCompleted(
    "r", 'hi é \n"', "stop", "m", 5, parts=(Reasoning('음 "x" ],', duration_us=3), Text("hi é"), Text(' \n"'))
)


def row_of(event: Event) -> StoredRow:
    kind, data = event_type(event), encode(event)
    salt, commitment = commit_parts(kind.encode(), data, os.urandom)
    return StoredRow(1, "s", 1, kind, 2, 0, "{}", data.decode(), salt, commitment, bytes(32))


@pytest.mark.parametrize("event", WITH_PARTS, ids=event_type)
def test_what_was_committed_to_is_without_fault(event: Event) -> None:
    assert check_commitment(row_of(event)) is None


def test_the_bytes_that_are_hashed() -> None:
    row = row_of(EVENT)
    assert row.data is not None
    assert row.salt is not None
    head = '{"type":"reply_completed","parts":['
    assert row.data.startswith(head)
    parts = [json.dumps(part, ensure_ascii=False, separators=(",", ":")) for part in json.loads(row.data)["parts"]]
    content = json.dumps(EVENT.content, ensure_ascii=False)
    rest = row.data[len(f'{head}{",".join(parts)}],"content":{content},') :]
    assert rest.startswith('"reply_id":"r",')
    salts = [row.salt[at : at + 16] for at in range(0, len(row.salt), 16)]
    hashed = [hashlib.sha256(salt + part.encode()).digest() for salt, part in zip(salts[1:], parts, strict=True)]
    whole = salts[0] + struct.pack(">Q", 3) + b"".join(hashed) + rest.encode()
    assert row.commitment == hashlib.sha256(whole).digest()


def test_each_salt_is_drawn_by_itself() -> None:
    drawn = iter(range(1, 9))
    salt, _ = commit_parts(KIND, encode(EVENT), lambda size: next(drawn).to_bytes(size, "big"))
    assert salt == b"".join(number.to_bytes(SALT_BYTES, "big") for number in range(1, 5))


def test_every_flipped_bit_is_found() -> None:
    row = row_of(EVENT)
    assert row.data is not None
    assert row.salt is not None
    data = row.data.encode()
    for place in range(8 * len(data)):
        assert fault(KIND, flipped(data, place), row.salt, row.commitment), place
    for place in range(8 * len(row.salt)):
        assert fault(KIND, data, flipped(row.salt, place), row.commitment), place


@pytest.mark.parametrize("length", [0, 15, 17, 31, 33, 16 * 3, 16 * 5, 16 * (PARTS_MAX + 2)])
def test_a_salt_of_another_length_is_a_fault(length: int) -> None:
    row = replace(row_of(EVENT), salt=bytes(length))
    reason = check_commitment(row)
    assert reason is not None
    assert "salt" in reason


def test_content_that_is_not_the_text_of_the_parts_is_a_fault() -> None:
    row = row_of(EVENT)
    data = (row.data or "").replace('"content":"hi', '"content":"ho')
    assert check_commitment(replace(row, data=data)) == "the content is not the text of the parts"


def test_data_nested_without_end_is_a_fault() -> None:
    deep = '{"type":"reply_completed","parts":' + "[" * 100_000
    reason = check_commitment(replace(row_of(EVENT), data=deep))
    assert reason is not None
    assert reason.startswith("a column holds what no log writes")


def test_parts_may_not_change_places_with_each_other() -> None:
    row = row_of(replace(EVENT, content="aa", parts=(Text("a"), Text("a"))))
    assert row.salt is not None
    swapped = row.salt[:16] + row.salt[32:] + row.salt[16:32]
    assert check_commitment(replace(row, salt=swapped)) == "content, salt or commitment was changed"


def test_neither_form_passes_for_the_other() -> None:
    row = row_of(EVENT)
    assert row.salt is not None
    assert check_commitment(replace(row, salt=row.salt[:16])) == "content, salt or commitment was changed"
    data = encode(posted("x"))
    plain = replace(row, type="message_posted", data=data.decode(), salt=bytes(16), commitment=commit(bytes(16), data))
    assert check_commitment(plain) is None
    assert check_commitment(replace(plain, salt=bytes(32))) is not None


def test_a_type_that_is_not_that_of_the_data_is_a_fault() -> None:
    assert check_commitment(replace(row_of(EVENT), type="reply_cancelled")) is not None


@pytest.mark.parametrize("event", [EVENT, posted("x")], ids=["parts", "plain"])
def test_a_row_with_other_data_commits_to_it_in_its_own_form(event: Event) -> None:
    kind, data = event_type(event), encode(event)
    if event is EVENT:
        row = row_of(event)
    else:
        row = StoredRow(1, "s", 1, kind, 1, 0, "{}", data.decode(), bytes(16), commit(bytes(16), data), bytes(32))
    fields = dict(reversed(json.loads(data).items()))
    changed = with_data(row, json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(), os.urandom)
    assert check_commitment(changed) is None
    assert len(changed.salt or b"") == len(row.salt or b"")
    assert changed.salt != row.salt
    assert decode(kind, row.schema_version, changed.data or "") == event


def fault(kind: bytes, data: bytes, salt: bytes, commitment: bytes) -> str | None:
    try:
        return find_fault(kind, data, salt, commitment)
    except ValueError as error:
        return str(error)


def flipped(whole: bytes, bit: int) -> bytes:
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
