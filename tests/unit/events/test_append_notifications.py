"""Holds whose batch failed, and which held streams are looked at next."""

import uuid
from typing import Any, cast

import pytest

from events.storage.postgres import append_notifications
from events.storage.postgres.append_notifications import AppendNotifications

UNUSED = cast(Any, None)


class BrokenConnection:
    """Fails while the stream is held again."""

    def __init__(self, notifications: AppendNotifications) -> None:
        self._notifications = notifications
        self.removed: list[str] = []

    async def fetchval(self, _query: str, _node: uuid.UUID, _added: list[str], removed: list[str]) -> None:
        self.removed = removed
        self._notifications.hold("a")
        raise ConnectionError


@pytest.fixture
def notifications() -> AppendNotifications:
    """Not started: it connects to nothing."""
    return AppendNotifications(UNUSED, UNUSED, UNUSED, UNUSED)


async def test_a_stream_that_was_held_again_is_not_released_by_the_batch_that_failed(
    notifications: AppendNotifications,
) -> None:
    notifications.release("a")
    notifications.release("b")
    connection = BrokenConnection(notifications)
    with pytest.raises(ConnectionError):
        await notifications._send(cast(Any, connection), uuid.uuid4())
    assert connection.removed == ["a", "b"]
    with pytest.raises(ConnectionError):
        await notifications._send(cast(Any, connection), uuid.uuid4())
    assert connection.removed == ["b"]


async def test_each_held_stream_is_looked_at_in_turn_though_others_are_released(
    notifications: AppendNotifications, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_notifications, "BATCH_MAX", 2)
    pages: list[list[str]] = []

    async def fetch(_query: str, page: list[str]) -> list[tuple[int]]:
        pages.append(page)
        return [(0,)] * len(page)

    for stream_id in "abcdef":
        notifications.hold(stream_id)
    await notifications._check_versions(fetch)
    notifications.release("c")
    await notifications._check_versions(fetch)
    notifications.release("f")
    await notifications._check_versions(fetch)
    assert pages[:2] == [["a", "b"], ["d", "e"]]


async def test_what_was_missed_is_looked_through_in_spans(
    notifications: AppendNotifications, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_notifications, "MISSED_SPAN", 2)
    spans: list[tuple[int, int]] = []

    async def fetch(_query: str, after: int, until: int, *_wanted: list[str]) -> list[tuple[int, str, int, str]]:
        if len(spans) == 1:
            spans.append((0, 0))
            raise ConnectionError
        spans.append((after, until))
        return [(until, "s", until, "session_deleted")]

    with pytest.raises(ConnectionError):
        await notifications._report_missed(fetch, 5)
    await notifications._report_missed(fetch, 5)
    assert spans == [(0, 2), (0, 0), (2, 4), (4, 5)], "after a failure it goes on where it was"
