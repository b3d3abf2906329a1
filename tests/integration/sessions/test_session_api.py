"""Sessions over real sockets: create, read, list, change, delete, expire."""

import asyncio
import re
from pathlib import Path
from typing import cast

import pytest

from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.expiry_timer import ExpiryTimer
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

RFC_3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


async def test_a_session_is_created_without_a_body_as_the_seed_allows(service: Running) -> None:
    answer = await service.client.post("/api/sessions")
    assert answer.status_code == 201
    view = answer.json()
    assert answer.headers["Location"] == f"/api/sessions/{view['session_id']}"
    assert view["metadata"] == {}
    assert re.fullmatch(RFC_3339, view["created_at"])
    assert view["last_accessed"] == view["created_at"]
    assert (view["version"], view["message_count"], view["status"], view["active_reply"]) == (1, 0, "active", None)


async def test_a_session_reads_back_as_created_with_its_version_as_etag(service: Running) -> None:
    created = (await service.client.post("/api/sessions", json={"metadata": {"user_id": "예"}, "title": "T"})).json()
    answer = await service.client.get(f"/api/sessions/{created['session_id']}")
    assert answer.json() == created
    assert answer.headers["ETag"] == '"1"'
    unchanged = await service.client.get(f"/api/sessions/{created['session_id']}", headers={"If-None-Match": '"1"'})
    assert unchanged.status_code == 304


async def test_ids_are_read_whatever_their_case(service: Running) -> None:
    session_id = await service.session()
    answer = await service.client.get(f"/api/sessions/{session_id.upper()}")
    assert answer.json()["session_id"] == session_id


async def test_metadata_merges_titles_change_and_if_match_guards(service: Running) -> None:
    session_id = await service.session(metadata={"a": 1, "b": 2})
    path = f"/api/sessions/{session_id}"
    changed = await service.client.patch(path, json={"metadata": {"a": None, "c": [1, {"d": "é"}]}, "title": "New"})
    assert changed.json()["metadata"] == {"b": 2, "c": [1, {"d": "é"}]}
    assert changed.json()["title"] == "New"
    stale = await service.client.patch(path, json={"title": "x"}, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    fresh = await service.client.patch(path, json={"title": None}, headers={"If-Match": '"2"'})
    assert fresh.json()["title"] is None
    assert (await service.client.get(path)).json()["metadata"] == {"b": 2, "c": [1, {"d": "é"}]}


async def test_sessions_are_listed_latest_access_first_in_pages_and_by_metadata(service: Running) -> None:
    ids = [await service.session(metadata={"user_id": f"u{n % 2}", "n": n}) for n in range(7)]
    await service.chat(ids[0], "touch")
    everything = (await service.client.get("/api/sessions")).json()
    assert [one["session_id"] for one in everything["sessions"]] == [ids[0], *reversed(ids[1:])]
    assert "next" not in everything
    paged: list[str] = []
    query = {"limit": "3", "metadata.user_id": "u0"}
    while True:
        page = (await service.client.get("/api/sessions", params=query)).json()
        paged += [one["session_id"] for one in page["sessions"]]
        if "next" not in page:
            break
        query["cursor"] = page["next"]
    assert paged == [ids[0], ids[6], ids[4], ids[2]]
    by_number = (await service.client.get("/api/sessions", params={"metadata.n": "3"})).json()
    assert [one["session_id"] for one in by_number["sessions"]] == [ids[3]]
    assert (await service.client.get("/api/sessions", params={"metadata.x": "1"})).json()["sessions"] == []


async def test_messages_are_paged_backwards_in_time_order(service: Running) -> None:
    session_id = await service.session()
    assert (await service.history(session_id))["messages"] == []
    for number in range(4):
        await service.chat(session_id, f"m{number}")
    newest = await service.history(session_id, limit=3)
    assert newest["total_count"] == 8
    assert [m["content"] for m in newest["messages"]] == ["You said: m2", "m3", "You said: m3"]
    older = await service.history(session_id, limit=100, before=newest["next"])
    assert [m["content"] for m in older["messages"]][-1] == "m2"
    assert len(older["messages"]) == 5
    assert "next" not in older


async def test_a_deleted_session_is_gone_and_its_texts_are_in_no_file(service: Running, tmp_path: Path) -> None:
    session_id = await service.session(
        metadata={"user_id": "SECRET-user"}, title="SECRET-title", system_prompt="SECRET-p"
    )
    await service.chat(session_id, "SECRET-question")
    kept = await service.session(metadata={"user_id": "KEPT-user"})
    await service.chat(kept, "KEPT-question")
    assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
    for path in (f"/api/sessions/{session_id}", f"/api/sessions/{session_id}/messages"):
        gone = await service.client.get(path)
        assert gone.status_code == 404
        assert gone.json()["detail"] == f"Session {session_id} not found"
        assert gone.json()["type"] == "/problems/session-deleted"
    assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 404
    bytes_on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert b"SECRET" not in bytes_on_disk
    assert b"KEPT-question" in bytes_on_disk
    usage = (await service.client.get("/api/usage")).json()
    assert sum(row["replies"] for row in usage["usage"]) == 2


async def test_deleting_stops_the_running_reply(service: Running, model: ModelServer) -> None:
    model.script(pieces=("a", "b"), hold_after=1)
    session_id = await service.session()
    chatting = asyncio.create_task(service.client.post("/api/chat", json={"session_id": session_id, "message": "one"}))
    while not model.requests:
        await asyncio.sleep(0.01)
    assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
    answer = await chatting
    assert answer.json()["status"] == "cancelled"
    await asyncio.sleep(0.05)
    assert len(model.aborted) == 1


async def test_a_session_expires_by_itself_and_says_so(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SESSIONS_ACCESS_RESOLUTION_S="0") as service:
        short = (await service.client.post("/api/sessions", json={"timeout_hours": 1 / 3600})).json()["session_id"]
        long = await service.session()
        await service.services.session_queries.catch_up()
        async with asyncio.timeout(5):
            while (await service.services.queries.session(short)).status == "active":  # type: ignore[union-attr]
                await asyncio.sleep(0.05)
        gone = await service.client.get(f"/api/sessions/{short}")
        assert gone.status_code == 404
        assert gone.json()["type"] == "/problems/session-expired"
        refused = await service.client.post("/api/chat", json={"session_id": short, "message": "hi"})
        assert refused.status_code == 404
        assert [one["session_id"] for one in (await service.client.get("/api/sessions")).json()["sessions"]] == [long]
        expired = (await service.client.get("/api/sessions", params={"status": "expired"})).json()
        assert [(one["session_id"], one["status"]) for one in expired["sessions"]] == [(short, "expired")]


@pytest.mark.parametrize("default", ["0", "24"])
async def test_a_session_without_a_timeout_never_expires(tmp_path: Path, model: ModelServer, default: str) -> None:
    async with serving(tmp_path, model.url, SESSION_TIMEOUT_HOURS=default) as service:
        asked = {} if default == "0" else {"timeout_hours": 0}
        created = await service.client.post("/api/sessions", json=asked)
        assert (created.status_code, created.json()["expires_at"]) == (201, None)
        session_id = created.json()["session_id"]
        forked = await service.client.post(f"/api/sessions/{session_id}/fork")
        assert forked.json()["expires_at"] is None
        brief = (await service.client.post("/api/sessions", json={"timeout_hours": 1})).json()
        assert brief["expires_at"] > brief["created_at"]
    async with serving(tmp_path, model.url) as service:
        assert (await service.client.get(f"/api/sessions/{session_id}")).json()["expires_at"] is None
        listed = (await service.client.get("/api/sessions")).json()["sessions"]
        assert sorted(one["expires_at"] is None for one in listed) == [False, True, True]


async def test_a_session_whose_expiry_is_not_recorded_yet_is_listed_as_expired(
    tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_timer: ExpiryTimer) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ExpiryTimer, "run", never)
    async with serving(tmp_path, model.url) as service:
        body = {"timeout_hours": 1 / 3600, "metadata": {"team": "a"}}
        short = [(await service.client.post("/api/sessions", json=body)).json()["session_id"] for _ in range(3)]
        long = await service.session()

        async def listed(status: str, **more: str) -> tuple[list[str], list[str], str | None]:
            page = (await service.client.get("/api/sessions", params={"status": status, **more})).json()
            ids = [one["session_id"] for one in page["sessions"]]
            return ids, [one["status"] for one in page["sessions"]], page.get("next")

        async with asyncio.timeout(10):
            while len((await listed("expired"))[0]) < 3:
                await asyncio.sleep(0.05)
        for order in ("accessed", "created"):
            assert await listed("active", order=order) == ([long], ["active"], None)
            first = await listed("expired", order=order, limit="2")
            assert first[:2] == (short[:0:-1], ["expired"] * 2)
            assert first[2] is not None
            assert (await listed("expired", order=order, limit="2", cursor=first[2]))[0] == short[:1]
        by_label = {"metadata.team": "a"}
        assert await listed("active", **by_label) == ([], [], None)
        assert (await listed("expired", **by_label))[0] == short[::-1]
        session = await service.services.queries.session(short[0])
        assert session is not None
        assert session.status == "active", "nobody has recorded it"


async def test_an_expired_session_can_still_be_deleted_for_good(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        body = {"timeout_hours": 1 / 3600, "title": "SECRET-title"}
        path = f"/api/sessions/{(await service.client.post('/api/sessions', json=body)).json()['session_id']}"
        async with asyncio.timeout(5):
            while (await service.client.get(path)).status_code == 200:
                await asyncio.sleep(0.05)
        assert (await service.client.get(path)).json()["type"] == "/problems/session-expired"
        assert (await service.client.delete(path)).status_code == 204
        assert (await service.client.get(path)).json()["type"] == "/problems/session-deleted"
        assert b"SECRET" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


async def test_reading_a_session_puts_its_expiry_off(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SESSIONS_ACCESS_RESOLUTION_S="0") as service:
        session_id = await service.session()
        first = (await service.client.get(f"/api/sessions/{session_id}")).json()
        await service.history(session_id)
        second = (await service.client.get(f"/api/sessions/{session_id}")).json()
        assert second["last_accessed"] > first["last_accessed"]
        assert second["expires_at"] > first["expires_at"]


async def test_idle_actors_leave_memory_and_come_back_with_their_context(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SESSIONS_IDLE_TIMEOUT_S="0.05") as service:
        session_id = await service.session(system_prompt="Be kind.")
        await service.chat(session_id, "one")
        async with asyncio.timeout(5):
            while cast(Supervisor, service.services.supervisor)._actors:
                await asyncio.sleep(0.01)
        await service.chat(session_id, "two")
        sent = [m["content"] for m in model.requests[-1].body["messages"]]
        assert sent == ["Be kind.", "one", "You said: one", "two"]


async def test_a_session_is_erased_for_good_so_long_after_its_expiry_as_the_setting_says(
    tmp_path: Path, model: ModelServer
) -> None:
    settings = {
        "CHATBOT_SESSIONS_ERASE_EXPIRED_AFTER_HOURS": str(1 / 3600),
        "CHATBOT_SESSIONS_ERASE_AFTER_CLOCK_STABLE_HOURS": "0",
    }
    async with serving(tmp_path, model.url, **settings) as service:
        body = {"timeout_hours": 1 / 3600, "title": "SECRET-title"}
        short = (await service.client.post("/api/sessions", json=body)).json()["session_id"]
        kept = await service.session(title="KEPT-title")
        async with asyncio.timeout(10):
            while (await service.client.get(f"/api/sessions/{short}")).status_code == 200:
                await asyncio.sleep(0.05)
            while (await service.client.get(f"/api/sessions/{short}")).json()["type"] != "/problems/session-deleted":
                await asyncio.sleep(0.05)
            while service.services.log.erasure_pending:  # the write-ahead file is emptied after the commit
                await asyncio.sleep(0.01)
        assert (await service.client.get(f"/api/sessions/{kept}")).status_code == 200
        content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert b"SECRET" not in content
        assert b"KEPT" in content
