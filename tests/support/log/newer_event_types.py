"""Programs of later and earlier versions over a log; readers in the same process are still of this version."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from events import catalogue, codec, compatibility
from events.catalogue import Event, Traits
from events.storage import append_batch
from events.storage.newest_events import NewestEvents


class MoodNoted(Event, frozen=True, tag="mood_noted"):
    """An event type that only the later version has."""

    traits = Traits(is_access=False, holds_message=False)

    mood: str


@contextmanager
def newer_program(*, is_ignorable: bool = False, **schema_versions: int) -> Iterator[None]:
    """What is opened and appended inside is of a program that has `mood_noted`, and newer `schema_versions`."""
    versions = {**catalogue.SCHEMA_VERSIONS, "mood_noted": 1, **schema_versions}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "SCHEMA_VERSIONS", versions)
        patch.setattr(append_batch, "check", lambda kind, data: None)
        names: dict[type[Event], str] = {**codec._NAMES, MoodNoted: "mood_noted"}
        patch.setattr(codec, "_NAMES", names)
        # The process under test has none of what the newer program appends in memory.
        patch.setattr(NewestEvents, "add", lambda self, *_: self.clear())
        if is_ignorable:
            patch.setattr(codec, "IGNORABLE", frozenset({"mood_noted"}))
        yield


@contextmanager
def older_program() -> Iterator[None]:
    """A log that is opened inside tells others that it reads what version 0.4 does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "SCHEMA_VERSIONS", dict(compatibility.BASELINE))
        yield
