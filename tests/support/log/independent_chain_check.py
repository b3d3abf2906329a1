"""The chain once more, written from the API's description alone: it shares no code with the service."""

import hashlib
import json
import re
from datetime import datetime
from typing import Any

GENESIS = "00" * 32


def data_text(line: str) -> str | None:
    """The very text of the member `data` in an event's line of JSON; None where it is null."""
    place = re.search(r'"data":', line)  # no member before it can hold a quote that is not escaped
    assert place
    _, end = json.JSONDecoder().raw_decode(line, place.end())
    text = line[place.end() : end]
    return None if text == "null" else text


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def text(value: str) -> bytes:
    return number(len(value.encode())) + value.encode()


def microseconds(time: str) -> int:
    seconds, fraction = time.removesuffix("Z").split(".")
    assert len(fraction) == 6
    return int(datetime.fromisoformat(f"{seconds}+00:00").timestamp()) * 1_000_000 + int(fraction)


def commitment_of(line: str) -> str | None:
    """None where the content is erased."""
    event, data = json.loads(line), data_text(line)
    return None if data is None else sha256(bytes.fromhex(event["salt"]), data.encode()).hex()


def digest_of(line: str, previous: str) -> str:
    one: dict[str, Any] = json.loads(line)
    numbers = (one["position"], one["version"], one["schema_version"], microseconds(one["recorded_at"]))
    texts = (one["session_id"], one["type"], one["metadata"])
    parts = (bytes.fromhex(previous), *map(number, numbers), *map(text, texts), bytes.fromhex(one["commitment"]))
    return sha256(*parts).hex()


def check_chain(lines: list[str], previous: str = GENESIS) -> str:
    """The digest at the end of `lines`, each of which must follow from the one before."""
    for line in lines:
        event = json.loads(line)
        assert commitment_of(line) in (None, event["commitment"])
        assert (event["data"] is None) == (event["salt"] is None)
        assert digest_of(line, previous) == event["digest"], f"position {event['position']}"
        previous = event["digest"]
    return previous
