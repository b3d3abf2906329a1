"""Lists of sessions over real sockets: previews, pins, read marks and the filter by title."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from events.catalogue import MessagePosted
from events.record import Metadata
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving


async def listed(service: Running, **query: Any) -> list[dict[str, Any]]:
    """All pages."""
    found: list[dict[str, Any]] = []
    while True:
        answer = await service.client.get("/api/sessions", params=query)
        assert answer.status_code == 200, answer.text
        found += answer.json()["sessions"]
        if "next" not in answer.json():
            return found
        query["cursor"] = answer.json()["next"]


async def only(service: Running, **query: Any) -> dict[str, Any]:
    (found,) = await listed(service, **query)
    return found


async def test_a_preview_is_the_newest_text_of_the_selected_branch(service: Running, model: ModelServer) -> None:
    model.script(pieces=["  An\n\n", "answer  "])
    session_id = await service.session()
    assert "preview" not in await only(service)
    assert (await only(service, preview="true"))["preview"] is None
    first = await service.chat(session_id, "hello")
    assert (await only(service, preview="true"))["preview"] == {
        "message_id": first["message_id"],
        "role": "assistant",
        "text": "An answer",
    }
    model.script(pieces=["Another"])
    await service.chat(session_id, "hello again", parent_id=None)
    assert (await only(service, preview="true"))["preview"]["text"] == "Another"
    await service.client.post(f"/api/sessions/{session_id}/branch", json={"message_id": first["message_id"]})
    assert (await only(service, preview="true"))["preview"]["text"] == "An answer"


async def test_while_a_reply_is_written_the_preview_is_what_it_answers(service: Running, model: ModelServer) -> None:
    model.script(pieces=["never"], hold_after=0)
    session_id = await service.session()
    accepted = await service.client.post(
        "/api/chat", json={"session_id": session_id, "message": "a question"}, headers={"Prefer": "respond-async"}
    )
    assert accepted.status_code == 202
    preview = (await only(service, preview="true"))["preview"]
    assert (preview["role"], preview["text"]) == ("user", "a question")
    await service.client.post(f"/api/sessions/{session_id}/cancel")
    assert (await only(service, preview="true"))["preview"]["text"] == "a question"  # the reply has no text


async def test_a_preview_is_short_however_long_the_message(service: Running, model: ModelServer) -> None:
    model.script(pieces=["word " * 2_000])
    await service.chat(await service.session(), "hi")
    assert (await only(service, preview="true"))["preview"]["text"] == ("word " * 40)[:200]


async def test_no_list_reads_a_huge_message(service: Running) -> None:
    session_id = await service.session()
    huge = MessagePosted("m1", None, "user", "x" * 300_000)
    await service.services.log.append(session_id, 1, [huge], Metadata())
    assert (await only(service, preview="true"))["preview"] == {"message_id": "m1", "role": "user", "text": ""}


async def test_a_fork_has_the_preview_of_what_it_inherited_also_after_its_erasure(
    service: Running, model: ModelServer
) -> None:
    model.script(pieces=["An answer"])
    origin = await service.session()
    await service.chat(origin, "hello")
    await service.client.post(f"/api/sessions/{origin}/fork")
    await service.client.delete(f"/api/sessions/{origin}")
    assert (await only(service, preview="true"))["preview"]["text"] == "An answer"


async def test_a_session_is_unread_from_the_end_of_a_reply_until_it_is_marked(service: Running) -> None:
    session_id = await service.session()
    assert not (await only(service))["unread"]
    answer = await service.chat(session_id, "hello")
    view = (await service.client.get(f"/api/sessions/{session_id}")).json()
    assert (view["unread"], view["version"]) == (True, answer["version"])
    read, version = f"/api/sessions/{session_id}/read", answer["version"]
    earlier = await service.client.post(read, json={"version": version - 1})
    assert (earlier.json()["unread"], earlier.json()["version"]) == (True, version)
    marked = await service.client.post(read, json={"version": version})
    assert (marked.status_code, marked.json()["unread"], marked.json()["version"]) == (200, False, version + 1)
    assert marked.headers["ETag"] == f'"{version + 1}"'
    assert marked.json()["last_accessed"] == view["last_accessed"]
    again = await service.client.post(read)
    assert again.json() == marked.json()  # nothing is recorded where nothing is unread
    assert not (await only(service))["unread"]


async def test_read_marks_are_refused_where_there_is_no_session(service: Running) -> None:
    unknown = await service.client.post("/api/sessions/6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14/read")
    assert unknown.status_code == 404
    session_id = await service.session()
    for body in ({"version": -1}, {"version": "1"}, {"message_id": "m"}):
        assert (await service.client.post(f"/api/sessions/{session_id}/read", json=body)).status_code == 422


async def test_a_pin_is_changed_like_a_title_and_selects_sessions(service: Running) -> None:
    plain, pinned = await service.session(), await service.session(title="T", metadata={"a": "b"})
    changed = await service.client.patch(f"/api/sessions/{pinned}", json={"pinned": True})
    assert (changed.json()["pinned"], changed.json()["title"], changed.json()["metadata"]) == (True, "T", {"a": "b"})
    renamed = await service.client.patch(f"/api/sessions/{pinned}", json={"title": "U"})
    assert renamed.json()["pinned"]
    again = await service.client.patch(f"/api/sessions/{pinned}", json={"pinned": True})
    assert again.json()["version"] == renamed.json()["version"]  # no change, no event
    for order in ("accessed", "created"):
        assert [one["session_id"] for one in await listed(service, pinned="true", order=order)] == [pinned]
        assert [one["session_id"] for one in await listed(service, pinned="false", order=order)] == [plain]
    await service.client.patch(f"/api/sessions/{pinned}", json={"pinned": False})
    assert await listed(service, pinned="true") == []
    assert (await service.client.patch(f"/api/sessions/{pinned}", json={"pinned": None})).status_code == 422


@pytest.mark.parametrize(
    ("title", "asked"),
    [
        ("여행 계획", "여행"),
        ("여행 계획", unicodedata.normalize("NFD", "여행")),
        (unicodedata.normalize("NFD", "여행 계획"), "계획"),
        ("강아지", "가"),  # a syllable that is being typed
        ("STRASSE", "straße"),
        ("Café Zürich", "cafe"),
        ("Café Zürich", "  ZÜRICH "),
        ("ﬁle ①", "file 1"),
    ],
)
async def test_titles_are_found_whatever_their_case_and_normalization(service: Running, title: str, asked: str) -> None:
    session_id = await service.session(title=title)
    await service.session(title="another")
    await service.session()
    assert [one["session_id"] for one in await listed(service, title=asked)] == [session_id]


async def test_a_filter_by_title_pages_without_gap_or_repetition(service: Running, monkeypatch: Any) -> None:
    monkeypatch.setattr("chatbot.api.routes.session_list_routes.TITLES_SCANNED_MAX", 3)
    wanted = [await service.session(title=f"Wanted {number}") for number in range(1)]
    for number in range(12):
        title = "wanted" if number % 4 == 0 else "other"
        session_id = await service.session(title=title)
        wanted += [session_id] if title == "wanted" else []
    for limit in (1, 2, 100):
        found = [one["session_id"] for one in await listed(service, title="WANTED", limit=limit)]
        assert found == list(reversed(wanted))
    first = (await service.client.get("/api/sessions", params={"title": "no such title"})).json()
    assert first["sessions"] == []
    assert first["next"]
    too_long = await service.client.get("/api/sessions", params={"title": "x" * 201})
    assert too_long.status_code == 422


async def test_pins_and_read_marks_survive_a_rebuild(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session()
        await service.client.patch(f"/api/sessions/{session_id}", json={"pinned": True})
        await service.chat(session_id, "hello")
        before = await only(service, preview="true")
        assert before["pinned"]
        assert before["unread"]
    for file in tmp_path.glob("*projections*"):
        file.unlink()
    async with serving(tmp_path, model.url) as service:
        assert await only(service, preview="true") == before
