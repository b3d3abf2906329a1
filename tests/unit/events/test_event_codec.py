"""Events to and from the data column."""

import json
from typing import get_args

import msgspec
import pytest

from events.catalogue import RESERVED_STREAMS, SCHEMA_VERSIONS, AnyEvent, Event, SessionCreated
from events.codec import SAME_SHAPE, TYPES, decode, decode_metadata, encode, event_type, is_readable, schema_version_of
from events.errors import UnknownEvent
from events.upcasters import STEPS
from tests.support.log.sample_events import EVENTS_WITH_PARTS, EVERY_EVENT, RESERVED_EVENTS, posted

SAMPLES = (*EVERY_EVENT, *(event for events in RESERVED_EVENTS.values() for event in events))


@pytest.mark.parametrize("event", SAMPLES, ids=event_type)
def test_an_event_is_decoded_as_it_was_encoded(event: Event) -> None:
    name = event_type(event)
    assert decode(name, SCHEMA_VERSIONS[name], encode(event)) == event
    assert decode(name, SCHEMA_VERSIONS[name], encode(event).decode()) == event


@pytest.mark.parametrize("event", SAMPLES, ids=event_type)
def test_data_is_a_json_object_that_names_its_type_first(event: Event) -> None:
    fields = json.loads(encode(event))
    assert next(iter(fields.items())) == ("type", event_type(event))


def test_the_samples_hold_every_type_of_the_catalogue() -> None:
    assert {type(event) for event in SAMPLES} == set(get_args(AnyEvent))
    assert set(TYPES) == set(SCHEMA_VERSIONS) == {event_type(event) for event in SAMPLES}


def test_the_samples_hold_every_type_of_each_reserved_stream() -> None:
    types = {stream_id: {event_type(event) for event in events} for stream_id, events in RESERVED_EVENTS.items()}
    assert types == RESERVED_STREAMS


def test_every_older_schema_version_has_a_step_or_the_same_shape() -> None:
    older = {(name, version) for name, current in SCHEMA_VERSIONS.items() for version in range(1, current)}
    assert {*STEPS, *((name, 1) for name in SAME_SHAPE)} == older
    assert not {name for name, _ in STEPS} & SAME_SHAPE


@pytest.mark.parametrize("event", SAMPLES, ids=event_type)
def test_what_an_older_program_can_read_says_so(event: Event) -> None:
    name = event_type(event)
    version = schema_version_of(name, event)
    if name in SAME_SHAPE:
        new_fields = {"parts", "part"} & json.loads(encode(event)).keys()
        assert version == (2 if new_fields else 1)
    else:
        assert version == SCHEMA_VERSIONS[name]
    assert decode(name, version, encode(event)) == event


@pytest.mark.parametrize("event", EVENTS_WITH_PARTS, ids=event_type)
def test_data_begins_with_type_parts_and_content(event: Event) -> None:
    fields = json.loads(encode(event))
    if "parts" in fields:
        assert list(fields)[:3] == ["type", "parts", "content"]
        assert len(fields) > 3


def test_a_very_short_timeout_of_schema_version_one_is_still_one() -> None:
    data = '{"type":"session_created","owner":null,"metadata":{},"timeout_hours":0.0001}'
    event = decode("session_created", 1, data)
    assert isinstance(event, SessionCreated)
    assert event.timeout_s == 1


def test_a_session_of_schema_version_one_counted_its_timeout_in_hours() -> None:
    data = '{"type":"session_created","owner":"alice","metadata":{"a":1},"timeout_hours":1.5,"system_prompt":"Brief."}'
    assert decode("session_created", 1, data) == SessionCreated(
        owner="alice", metadata={"a": 1}, timeout_s=5400, system_prompt="Brief."
    )


@pytest.mark.parametrize(("name", "version"), [("session_melted", 1), ("session_created", 3), ("message_posted", 3)])
def test_an_event_of_a_newer_program_is_refused_by_name(name: str, version: int) -> None:
    with pytest.raises(UnknownEvent, match=f"{name!r} with schema version {version}"):
        decode(name, version, "{}")


def test_a_field_of_a_newer_program_is_ignored() -> None:
    data = json.loads(encode(posted("x"))) | {"mood": "sunny"}
    assert decode("message_posted", 1, json.dumps(data)) == posted("x")


@pytest.mark.parametrize("data", ["", "{", '{"type":"message_posted"}', '{"type":"session_accessed"}', "[]", "null"])
def test_damaged_data_raises_value_error(data: str) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        decode("message_posted", 1, data)
    assert isinstance(refusal.value, msgspec.DecodeError)


def test_json_that_is_nested_too_deeply_is_damaged() -> None:
    nested = '{"more":' + "[" * 10_000 + "]" * 10_000 + "}"
    for version in (1, 2):
        with pytest.raises(ValueError, match="nested too deeply"):
            decode("session_created", version, nested)
    with pytest.raises(ValueError, match="nested too deeply"):
        decode_metadata(nested)
    assert not is_readable("session_melted", 1, nested)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        encode(posted("\ud83d"))
