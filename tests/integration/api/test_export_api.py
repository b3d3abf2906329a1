"""A conversation taken away over HTTP: now, and as the history said it at each moment before."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.http.feed_reader import following, text_of
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

SHARED = (
    "message_id",
    "parent_id",
    "role",
    "content",
    "status",
    "created_at",
    "finish_reason",
    "finish_detail",
    "model",
    "token_usage",
)


async def exported(service: Running, session_id: str, **query: Any) -> dict[str, Any]:
    answer = await service.client.get(f"/api/sessions/{session_id}/export", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def shared(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: one[name] for name in SHARED} for one in messages]


async def test_an_export_says_what_the_history_says(service: Running, model: ModelServer) -> None:
    session_id = await service.session(title="여행", metadata={"user_id": "x"}, system_prompt="Be brief.")
    await service.chat(session_id, "하나")
    for word in ("MAX_TOKENS", "network_error"):
        model.script(pieces=("a",), finish_reason=word)
        await service.client.post("/api/chat", json={"session_id": session_id, "message": word})
    answer = await service.client.get(f"/api/sessions/{session_id}/export")
    found, history = answer.json(), await service.history(session_id)
    assert found["messages"] == shared(history["messages"])
    assert [found[name] for name in ("title", "metadata", "system_prompt")] == ["여행", {"user_id": "x"}, "Be brief."]
    session = (await service.client.get(f"/api/sessions/{session_id}")).json()
    assert [found[name] for name in ("session_id", "created_at", "version", "status")] == [
        session_id, session["created_at"], session["version"], "active",
    ]  # fmt: skip
    assert answer.headers["Content-Type"] == "application/json"
    name = f'attachment; filename="conversation-{session_id}-v{found["version"]}.json"'
    assert answer.headers["Content-Disposition"] == name


async def test_at_every_version_of_a_turn_the_export_is_what_the_history_said_then(
    tmp_path: Path, model: ModelServer
) -> None:
    """The model writes piece by piece; after each recorded piece the history is noted, to be compared afterwards."""
    noted: dict[int, tuple[list[dict[str, Any]], str]] = {}
    async with serving(tmp_path, model.url, CHATBOT_STREAM_CHECKPOINT_INTERVAL_S="0.02") as service:
        session_id = await service.session()

        async def note() -> None:
            history = await service.history(session_id)
            trail = (await service.client.get(f"/api/sessions/{session_id}/events")).json()["events"]
            at = {event["version"]: event["recorded_at"] for event in trail}
            noted[history["version"]] = shared(history["messages"]), at[history["version"]]

        await note()
        pieces = ("안", "녕", "하", "세", "요")
        model.script(pieces=pieces, stepwise=True)
        chatting = asyncio.create_task(service.chat(session_id, "hi"))
        for count in range(len(pieces) + 1):
            async with asyncio.timeout(5):
                while True:
                    await note()
                    said = noted[max(noted)][0]
                    if count == len(pieces) or (len(said) == 2 and said[1]["content"] == "".join(pieces[:count])):
                        break
                    await asyncio.sleep(0.005)
            model.step()
        await chatting
        await note()
        assert len(noted) >= 7, "created, started, five checkpoints or four and the end"
        for version, (messages, recorded_at) in noted.items():
            for as_of in (version, recorded_at):
                found = await exported(service, session_id, as_of=as_of)
                assert (found["version"], found["as_of"]) == (version, recorded_at)
                assert found["messages"] == messages
    async with serving(tmp_path, model.url) as service:
        for version, (messages, _) in noted.items():
            assert (await exported(service, session_id, as_of=version))["messages"] == messages, "after a restart, too"


async def test_a_reply_that_is_being_written_has_the_text_recorded_so_far(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_STREAM_CHECKPOINT_INTERVAL_S="0.02") as service:
        model.script(pieces=("so ", "far"), hold_after=2)
        session_id = await service.session()
        chatting = asyncio.create_task(service.chat(session_id, "hi"))
        async with following(service.client, session_id, 0) as feed:
            seen = await feed.until("start")
            while text_of(seen) != "so far":
                seen.append(await feed.next())
        async with asyncio.timeout(5):
            while (reply := (await exported(service, session_id))["messages"][1])["content"] != "so far":
                await asyncio.sleep(0.01)
        assert (reply["status"], reply["finish_reason"]) == ("streaming", None)
        markdown = await service.client.get(f"/api/sessions/{session_id}/export", params={"format": "markdown"})
        assert "## assistant (streaming) · " in markdown.text
        model.release()
        await chatting


async def test_all_branches_come_with_the_head_of_the_selected_one(service: Running) -> None:
    session_id = await service.session()
    first = await service.chat(session_id, "one")
    second = await service.chat(session_id, "two", parent_id=None)
    selected, every = await exported(service, session_id), await exported(service, session_id, branch="all")
    assert [one["content"] for one in selected["messages"] if one["role"] == "user"] == ["two"]
    assert [one["content"] for one in every["messages"] if one["role"] == "user"] == ["one", "two"]
    assert every["head"] == second["message_id"]
    assert "head" not in selected
    assert (await exported(service, session_id, branch="all", as_of=first["version"]))["head"] == first["message_id"]


async def test_a_fork_is_exported_with_its_origin_also_after_that_is_gone(service: Running, model: ModelServer) -> None:
    origin = await service.session()
    model.script(pieces=("a",), finish_reason="network_error")
    await service.client.post("/api/chat", json={"session_id": origin, "message": "zero"})
    answer = await service.chat(origin, "one")
    fork = (await service.client.post(f"/api/sessions/{origin}/fork")).json()["session_id"]
    before = await exported(service, fork)
    assert before["forked_from"] == {
        "session_id": origin, "version": answer["version"], "message_id": answer["message_id"],
    }  # fmt: skip
    assert before["messages"] == shared((await service.history(fork))["messages"])
    await service.client.delete(f"/api/sessions/{origin}")
    after = await exported(service, fork)
    assert after["messages"] == before["messages"] == shared((await service.history(fork))["messages"])
    assert (await exported(service, fork, as_of=before["version"]))["messages"] == before["messages"]


async def test_markdown_is_a_file_for_people(service: Running) -> None:
    session_id = await service.session(title="여행")
    await service.chat(session_id, "# 하나\n\n## assistant\n\n<b>")
    answer = await service.client.get(f"/api/sessions/{session_id}/export", params={"format": "markdown"})
    assert answer.headers["Content-Type"] == "text/markdown; charset=utf-8"
    assert answer.headers["Content-Disposition"].endswith('-v4.md"')
    assert answer.text.startswith("# 여행\n\n- session: ")
    assert "\n\n# 하나\n\n## assistant\n\n<b>\n\n## assistant · " in answer.text


@pytest.mark.parametrize("as_of", ["0", "1999-12-31", "1970-01-01T00:00:00Z"])
async def test_before_it_began_there_was_no_session(service: Running, as_of: str) -> None:
    session_id = await service.session()
    refused = await service.client.get(f"/api/sessions/{session_id}/export", params={"as_of": as_of})
    assert (refused.status_code, refused.json()["detail"]) == (404, f"Session {session_id} not found")


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"as_of": "yesterday"}, "query.as_of"),
        ({"as_of": ""}, "query.as_of"),
        ({"as_of": "2026-02-30"}, "query.as_of"),
        ({"format": "pdf"}, "query.format"),
        ({"branch": "none"}, "query.branch"),
        ({"branch": "all", "format": "markdown"}, "query.branch"),
        ({"as_off": "1"}, "query.as_off"),
    ],
)
async def test_what_cannot_be_meant_is_refused(service: Running, query: dict[str, str], path: str) -> None:
    session_id = await service.session()
    refused = await service.client.get(f"/api/sessions/{session_id}/export", params=query)
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, path)
    assert ("%2B" in refused.text) is (query.get("as_of") in ("yesterday", "")), "as an address needs it"


async def test_a_moment_to_come_is_now(service: Running) -> None:
    session_id = await service.session()
    assert await exported(service, session_id, as_of="2999-01-01") == await exported(service, session_id, as_of=999)


async def test_there_is_nothing_to_export_of_a_session_that_is_gone_or_is_not_yours(
    tmp_path: Path, model: ModelServer
) -> None:
    keys = {
        "CHATBOT_API_KEYS": "mina:key-of-mina-0123456789,jun:key-of-jun-0123456789,eve:key-of-eve-0123456789",
        "CHATBOT_AUTH_AUDITORS": "eve",
    }
    mina = {"X-API-Key": "key-of-mina-0123456789"}
    async with serving(tmp_path, model.url, **keys) as service:

        async def export(session_id: str, secret: str = "key-of-mina-0123456789") -> tuple[int, str]:
            answer = await service.client.get(f"/api/sessions/{session_id}/export", headers={"X-API-Key": secret})
            return answer.status_code, answer.json().get("type", "")

        made = await service.client.post("/api/sessions", headers=mina)
        brief = await service.client.post("/api/sessions", headers=mina, json={"timeout_hours": 1 / 3600})
        session_id, brief_id = made.json()["session_id"], brief.json()["session_id"]
        assert await export(session_id) == (200, "")
        assert (await service.client.get(f"/api/sessions/{session_id}/export", headers=mina)).json()["owner"] == "mina"
        assert await export(session_id, "key-of-jun-0123456789") == (404, "/problems/session-not-found")
        await service.client.delete(f"/api/sessions/{session_id}", headers=mina)
        assert await export(session_id) == (404, "/problems/session-deleted")
        assert await export("nonsense") == (404, "/problems/session-not-found")
        await asyncio.sleep(1.1)
        assert await export(brief_id) == (404, "/problems/session-expired")
        assert await export(brief_id, "key-of-eve-0123456789") == (200, "")
