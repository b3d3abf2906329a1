"""Answers of any length go out piece by piece: complete, within their bounds, and broken off where they cannot be."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatbot.sessions.history_pieces import PIECE_BYTES
from events.record import RecordedEvent
from tests.support.model_server import ModelServer
from tests.support.service import Running, serving

TURNS = 14
CHARS = 25_000


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(
        tmp_path, model.url, CHATBOT_SERVER_HISTORY_MAX_BYTES="500000", CHATBOT_SERVER_FEEDS_GRACE_S="0"
    ) as running:
        yield running


async def conversation(service: Running) -> str:
    """A session of TURNS turns with long texts, 700 kB in all."""
    session_id = await service.session(title='"messages":[]', metadata={"messages": []})
    for number in range(TURNS):
        await service.chat(session_id, f"{number} ".ljust(CHARS, "x"))
    return session_id


async def all_pages(service: Running, session_id: str, limit: int) -> list[list[dict[str, Any]]]:
    """Every page of the messages, the newest first."""
    pages: list[list[dict[str, Any]]] = []
    before: dict[str, Any] = {}
    while True:
        page = await service.history(session_id, limit=limit, **before)
        pages.append(page["messages"])
        if "next" not in page:
            return pages
        before = {"before": page["next"]}


def joined(pages: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [one for page in reversed(pages) for one in page]


async def test_a_long_page_ends_within_its_bytes_and_says_where_it_goes_on(service: Running) -> None:
    session_id = await conversation(service)
    by_tens, whole = await all_pages(service, session_id, 10), await all_pages(service, session_id, 1000)
    assert [len(page) for page in by_tens] == [10, 10, 8]
    assert [len(page) for page in whole] == [19, 9], "500,000 bytes hold 19 messages of 25,000"
    assert joined(by_tens) == joined(whole)
    assert [one["content"][:2] for one in joined(whole)[::2]] == [f"{number} "[:2] for number in range(TURNS)]


async def test_a_long_page_has_the_headers_and_members_of_a_short_one(service: Running) -> None:
    session_id = await conversation(service)
    path = f"/api/sessions/{session_id}/messages"
    long = await service.client.get(path, params={"limit": 1000})
    short = await service.client.get(path, params={"limit": 2})
    assert "content-length" not in long.headers
    for name in ("content-type", "etag", "cache-control", "x-content-type-options"):
        assert long.headers[name] == short.headers[name]
    assert list(long.json()) == list(short.json())
    assert {**long.json(), "messages": 0, "next": 0} == {**short.json(), "messages": 0, "next": 0}
    head = await service.client.head(path, params={"limit": 1000})
    assert (head.status_code, head.content) == (200, b"")


async def test_no_more_is_read_at_once_than_a_piece(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = await conversation(service)
    service.services.supervisor._ports.texts.drop()
    read: list[int] = []
    real = service.services.log.read_at

    async def read_at(positions: list[int]) -> dict[int, RecordedEvent]:
        found = await real(positions)
        read.append(sum(len(getattr(one.event, "content", "")) for one in found.values()))
        return found

    monkeypatch.setattr(service.services.log, "read_at", read_at)
    assert len((await service.history(session_id, limit=1000))["messages"]) == 19
    assert max(read) <= PIECE_BYTES
    assert sum(read) > PIECE_BYTES


async def test_messages_that_are_erased_while_they_are_sent_break_the_answer_off(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await conversation(service)
    real, asked = service.services.log.read_at, asyncio.Event()

    async def read_at(positions: list[int]) -> dict[int, RecordedEvent]:
        if len(positions) > 5 and not asked.is_set():
            found = await real(positions)
            asked.set()
            assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
            return found
        return await real(positions)

    service.services.supervisor._ports.texts.drop()
    monkeypatch.setattr(service.services.log, "read_at", read_at)
    with pytest.raises(httpx.RemoteProtocolError):
        await service.client.get(f"/api/sessions/{session_id}/messages", params={"limit": 1000})
    assert asked.is_set()
