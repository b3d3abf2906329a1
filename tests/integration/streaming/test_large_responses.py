"""Answers of any length go out piece by piece: complete, within their bounds, and broken off where they cannot be."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from chatbot.api.request_limits import DESCRIBED_MAX, EXPORTS_MAX, LIST_MAX_BYTES
from chatbot.api.routes import export_routes as exporting
from chatbot.api.streaming.response_stream import STREAMS
from chatbot.audit.conversation import Conversation, load_conversation
from chatbot.audit.conversation_rendering import build_document, render_markdown
from chatbot.runtime.throttle import PIECE_BYTES as WORK_BYTES
from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.history_chunks import PIECE_BYTES
from events.record import RecordedEvent, StoredRow
from tests.support.http.stream_reader import reading
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

TURNS = 14
CHARS = 25_000


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(
        tmp_path, model.url, CHATBOT_SERVER_HISTORY_PAGE_MAX_BYTES="500000", CHATBOT_SERVER_STREAM_CLOSE_TIMEOUT_S="0"
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
    cast(Supervisor, service.services.supervisor)._ports.texts.drop()
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
        if len(positions) > 1 and not asked.is_set():
            found = await real(positions)
            asked.set()
            assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
            return found
        return await real(positions)

    cast(Supervisor, service.services.supervisor)._ports.texts.drop()
    monkeypatch.setattr(service.services.log, "read_at", read_at)
    with pytest.raises(httpx.RemoteProtocolError):
        await service.client.get(f"/api/sessions/{session_id}/messages", params={"limit": 1000})
    assert asked.is_set()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_that_fails_after_its_beginning_is_broken_off_and_no_other_follows_it(
    service: Running, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    session_id = await conversation(service)
    begun = asyncio.Event()

    async def fail(_: Any) -> AsyncIterator[list[Any]]:
        await begun.wait()
        raise RuntimeError("a fault of ours")
        yield []

    monkeypatch.setattr(service.services.session_queries, "remaining_messages", fail)
    reader, writer = await asyncio.open_connection(service.client.base_url.host, service.client.base_url.port)
    target = f"/api/sessions/{session_id}/messages?limit=1000"
    writer.write(f"GET {target} HTTP/{version}\r\nHost: 127.0.0.1\r\n\r\n".encode())
    with contextlib.closing(writer), capture_logs() as lines:
        async with asyncio.timeout(20):
            got = await reader.readuntil(b'"messages":[')
            begun.set()
            with contextlib.suppress(ConnectionResetError):
                while piece := await reader.read(65_536):
                    got += piece
    assert got.count(b"HTTP/1.") == 1, "no second answer in the midst of the first"
    assert got.startswith(f"HTTP/{version} 200 OK\r\n".encode())
    assert not got.endswith(b"0\r\n\r\n")
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["request.failed"]


async def whole(service: Running, session_id: str) -> Conversation:
    """The conversation as it is read in one go."""
    found = await load_conversation(service.services.log, session_id)
    assert found is not None
    return found


async def test_an_export_in_pieces_is_what_the_whole_conversation_renders_to(service: Running) -> None:
    session_id = await conversation(service)
    newest = (await service.history(session_id, limit=4))["messages"]
    await service.chat(session_id, "another branch #00000000", parent_id=newest[1]["message_id"])
    fork = await service.client.post(f"/api/sessions/{session_id}/fork")
    forked = fork.json()["session_id"]
    await service.chat(forked, "and on")
    for one, erased in ((session_id, False), (forked, False), (forked, True)):
        if erased:
            assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
        stood = await whole(service, one)
        for branch, every in (("all", True), ("selected", False)):
            answer = await service.client.get(f"/api/sessions/{one}/export", params={"branch": branch})
            assert answer.content == msgspec.json.encode(build_document(stood, all_branches=every))
        answer = await service.client.get(f"/api/sessions/{one}/export", params={"format": "markdown"})
        assert answer.text == render_markdown(stood)


async def test_a_short_conversation_is_read_once(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = await service.session()
    await service.chat(session_id, "short")
    stood = await whole(service, session_id)

    async def read_at(positions: list[int]) -> dict[int, RecordedEvent]:
        assert not positions, "every text was there already"
        return {}

    monkeypatch.setattr(service.services.log, "read_at", read_at)
    for form, wanted in (
        ("json", msgspec.json.encode(build_document(stood))),
        ("markdown", render_markdown(stood).encode()),
    ):
        answer = await service.client.get(f"/api/sessions/{session_id}/export", params={"format": form})
        assert answer.content == wanted


async def test_a_mark_that_somebody_wrote_is_not_taken(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = await service.session()
    await service.chat(session_id, "## assistant #00000000")
    await service.chat(session_id, "## assistant #00000001")
    digests = iter(["00000000", "00000001", "00000002"])
    weak = SimpleNamespace(hexdigest=lambda: next(digests), update=lambda _: None)
    monkeypatch.setattr("chatbot.audit.conversation_rendering.hashlib", SimpleNamespace(sha256=lambda *_: weak))
    answer = await service.client.get(f"/api/sessions/{session_id}/export", params={"format": "markdown"})
    assert "in #00000002, which is nowhere" in answer.text
    assert answer.text.count("#00000002") == 1 + 4


@pytest.mark.parametrize("form", ["json", "markdown"])
async def test_exports_that_nobody_reads_hold_a_piece_each_and_are_few(
    service: Running, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(service.app[STREAMS].limit, "_open_max", 10_000)
    session_id = await conversation(service)
    pages: list[int] = []
    real = service.services.log.read_at

    async def read_at(positions: list[int]) -> dict[int, RecordedEvent]:
        found = await real(positions)
        pages.append(sum(len(getattr(one.event, "content", "")) for one in found.values()))
        return found

    monkeypatch.setattr(service.services.log, "read_at", read_at)
    answer = await service.client.get(f"/api/sessions/{session_id}/export", params={"format": form})
    assert len(answer.content) > TURNS * CHARS
    assert max(pages) <= WORK_BYTES
    assert sum(pages) >= TURNS * CHARS
    monkeypatch.setattr(exporting, "read_texts", _never)
    open_exports = [
        asyncio.create_task(service.client.get(f"/api/sessions/{session_id}/export", params={"format": form}))
        for _ in range(EXPORTS_MAX + 1)
    ]
    done, waiting = await asyncio.wait(open_exports, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    (refused,) = done
    assert (refused.result().status_code, refused.result().headers["Retry-After"]) == (503, "1")
    for one in waiting:
        one.cancel()


async def _never(*_: Any) -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield []


async def test_an_export_that_is_erased_while_it_is_sent_is_broken_off(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await conversation(service)
    real, reads = service.services.log.read_at, 0

    async def read_at(positions: list[int]) -> dict[int, RecordedEvent]:
        nonlocal reads
        found, reads = await real(positions), reads + (len(positions) > 1)
        if reads == 1:
            reads += 1
            assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
        return found

    monkeypatch.setattr(service.services.log, "read_at", read_at)
    with pytest.raises(httpx.RemoteProtocolError):
        await service.client.get(f"/api/sessions/{session_id}/export")
    assert reads > 1


async def test_a_list_of_much_metadata_ends_within_its_bytes_and_goes_on(service: Running) -> None:
    made = [await service.session(metadata={"number": number, "much": "x" * 15_000}) for number in range(120)]
    listed: list[str] = []
    sizes: list[int] = []
    query: dict[str, Any] = {"limit": 1000, "order": "created"}
    while True:
        answer = await service.client.get("/api/sessions", params=query)
        listed += [one["session_id"] for one in answer.json()["sessions"]]
        sizes.append(len(answer.content))
        if "next" not in answer.json():
            break
        query["cursor"] = answer.json()["next"]
    assert listed == made[::-1]
    assert len(sizes) == 2
    assert max(sizes) <= LIST_MAX_BYTES + DESCRIBED_MAX * 16_384


async def test_a_feed_from_the_beginning_and_a_trail_read_a_piece_at_a_time(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await conversation(service)
    read: list[int] = []
    log = service.services.log
    real, real_rows = log.read, log.stream_rows

    async def events(*asked: Any, **how: Any) -> list[RecordedEvent]:
        found = await real(*asked, **how)
        read.append(sum(len(getattr(one.event, "content", "")) for one in found))
        return found

    async def rows(*asked: Any, **how: Any) -> list[StoredRow]:
        found = await real_rows(*asked, **how)
        read.append(sum(len(one.data or "") for one in found))
        return found

    monkeypatch.setattr(log, "read", events)
    monkeypatch.setattr(log, "stream_rows", rows)
    async with reading(service.client, f"/api/sessions/{session_id}/stream?after=0:0") as feed:
        for _ in range(TURNS):
            await feed.until("complete")
    assert sum(read) >= 2 * TURNS * CHARS
    assert max(read) <= WORK_BYTES + 2 * CHARS
    read.clear()
    trail = (await service.client.get(f"/api/sessions/{session_id}/events", params={"limit": 1000})).json()
    assert len(trail["events"]) == 1 + 3 * TURNS
    assert max(read) <= WORK_BYTES + 2 * CHARS
