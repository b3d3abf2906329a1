"""Events with any parts: what is recorded is read again and proven, and no change of it passes."""

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from events.catalogue import ReplyCompleted
from events.codec import decode
from events.integrity.row_checks import check_commitment
from events.record import StoredRow
from events.schema.parts import (
    Media,
    Parts,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    count_chars,
    find_faults,
    flat,
    parts_of,
    stored_parts,
    text_of,
)
from events.storage.append_batch import AppendContext, prepare
from events.transfer.changed_rows import with_data
from tests.support.log.sample_events import ASKED
from tests.support.nightly import scaled

WORDS = st.text(min_size=1, max_size=12)
TEXTS = st.builds(Text, WORDS)
MEDIA = st.builds(
    Media,
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    media_type=st.sampled_from(["image/png", "image/webp"]),
    bytes=st.integers(1, 2**40),
    name=st.none() | st.text(max_size=12),
)
PART = st.one_of(
    TEXTS,
    st.builds(Reasoning, WORDS, st.integers(0, 10**9)),
    st.builds(Refusal, WORDS),
    st.builds(ToolCall, WORDS, WORDS, st.text(max_size=12)),
    st.builds(ToolResult, WORDS, st.lists(TEXTS | MEDIA, max_size=3).map(tuple), st.booleans()),
    MEDIA,
)
PARTS: st.SearchStrategy[Parts] = st.lists(PART, min_size=1, max_size=6).map(tuple)


def reply(parts: Parts) -> ReplyCompleted:
    return ReplyCompleted("r", text_of(parts), "stop", "m", 1, parts=stored_parts(parts))


def recorded(parts: Parts) -> StoredRow:
    """As a store keeps it, outside of any chain."""
    one = prepare([reply(parts)], AppendContext("s", 0, ASKED, 0), os.urandom).contents[0]
    return StoredRow(1, "s", 1, one.type, one.schema_version, 0, "{}", one.data, one.salt, one.commitment, bytes(32))


@given(PARTS)
@settings(max_examples=scaled(100), deadline=None)
def test_what_is_recorded_is_read_again_and_proven(parts: Parts) -> None:
    row = recorded(parts)
    assert row.data is not None
    event = decode(row.type, row.schema_version, row.data)
    assert event == reply(parts)
    assert isinstance(event, ReplyCompleted)
    assert parts_of(event) == parts
    assert check_commitment(row) is None
    is_plain = len(parts) == 1 and isinstance(parts[0], Text)
    assert row.schema_version == (1 if is_plain else 2)
    assert len(row.salt or b"") == (16 if is_plain else 16 + 16 * len(parts))


@given(PARTS, st.data())
@settings(max_examples=scaled(200), deadline=None)
def test_no_flipped_bit_passes(parts: Parts, data: st.DataObject) -> None:
    row = recorded(parts)
    content, salt = (row.data or "").encode(), row.salt or b""
    bit = data.draw(st.integers(0, 8 * (len(content) + len(salt)) - 1))
    both = bytearray(content + salt)
    both[bit // 8] ^= 1 << bit % 8
    text = bytes(both[: len(content)]).decode(errors="surrogateescape")
    assert check_commitment(replace(row, data=text, salt=bytes(both[len(content) :]))) is not None


@given(PARTS, PARTS)
@settings(max_examples=scaled(50), deadline=None)
def test_a_row_takes_other_data_in_its_own_form(parts: Parts, others: Parts) -> None:
    row, other = recorded(parts), recorded(others)
    if (len(row.salt or b"") == 16) != (len(other.salt or b"") == 16):
        return
    changed = with_data(row, (other.data or "").encode(), os.urandom)
    assert check_commitment(changed) is None
    assert changed.data == other.data


@given(PARTS)
def test_parts_that_may_be_recorded_have_no_fault_and_offsets_count_what_they_say(parts: Parts) -> None:
    assert not list(find_faults(parts))
    assert sum(len(flat(part)) for part in parts) <= count_chars(parts)
    assert len(text_of(parts)) <= sum(len(flat(part)) for part in parts)
