"""run.py erase --url while sessions are used and made: it ends well only once nothing is left of what was meant."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from chatbot.cli.erasure import erase_over_http as erasing
from chatbot.cli.erasure.erase_criteria import REASONS, EraseCriteria
from chatbot.cli.erasure.erase_over_http import Service, erase_over_http
from chatbot.cli.exit_codes import CommandFailed
from chatbot.config.settings import Settings
from tests.support.fake_console import FakeConsole
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

OF_42 = EraseCriteria(reason=REASONS["metadata"], metadata={"user_id": "42"})


def receipts(console: FakeConsole) -> list[str]:
    return [json.loads(line)["session_id"] for line in console.stdout_lines]


class BusyConsole(FakeConsole):
    """Somebody else acts after each receipt."""

    def __init__(self, act: Callable[[int], None]) -> None:
        super().__init__(Settings())
        self._act = act

    def print_result(self, text: str) -> None:
        super().print_result(text)
        self._act(len(self.stdout_lines))


@asynccontextmanager
async def listing(sessions: dict[str, list[str]], delete: Callable[[str], int]) -> AsyncIterator[str]:
    """A service that lists the ids in `sessions`, by status, and answers DELETE with what `delete` says."""

    async def listed(request: web.Request) -> web.Response:
        assert request.query["order"] == "created"
        views = [
            {"session_id": one, "created_at": one, "expires_at": "2026", "message_count": 1, "last_accessed": "2026"}
            for one in sessions.get(request.query["status"], [])
        ]
        return web.json_response({"sessions": views})

    accepted: set[str] = set()

    async def deleted(request: web.Request) -> web.Response:
        status = delete(request.match_info["id"])
        # as a service tells it that is published under a path
        kind = "/chat/problems/session-deleted" if request.match_info["id"] in accepted else "x"
        if status == 202:
            accepted.add(request.match_info["id"])
        return web.Response(status=204) if status == 204 else web.json_response({"type": kind}, status=status)

    app = web.Application()
    app.router.add_get("/api/sessions", listed)
    app.router.add_delete("/api/sessions/{id}", deleted)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def test_a_session_that_is_used_between_two_pages_goes_like_the_others(
    tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "PAGE", 2)
    async with serving(tmp_path, model.url) as service:
        mine = [await service.session(metadata={"user_id": "42"}) for _ in range(5)]
        kept = await service.session(metadata={"user_id": "43"})
        pages = 0
        listed = erasing._list_sessions

        async def used_meanwhile(*asked: Any) -> AsyncIterator[dict[str, Any]]:
            nonlocal pages
            async for view in listed(*asked):
                yield view
                pages += 1
                if pages == 2:  # the first page is read
                    await service.chat(mine[0], "still here")

        monkeypatch.setattr(erasing, "_list_sessions", used_meanwhile)
        console = FakeConsole(Settings())
        url = str(service.client.base_url).rstrip("/")
        assert await erase_over_http(console, OF_42, Service(url, None)) == 0
        left = (await service.client.get("/api/sessions")).json()["sessions"]
    assert sorted(receipts(console)) == sorted(mine)
    assert [one["session_id"] for one in left] == [kept]


async def test_sessions_that_come_meanwhile_go_in_the_next_pass() -> None:
    sessions = {"active": ["1", "2"], "expired": ["0"]}
    gone: list[str] = []

    def delete(session_id: str) -> int:
        next(ids for ids in sessions.values() if session_id in ids).remove(session_id)
        gone.append(session_id)
        return 204

    def somebody(said: int) -> None:
        if said == 2:
            sessions["active"].append("3")
        if said == 4:
            sessions["expired"].append("4")

    async with listing(sessions, delete) as url:
        console = BusyConsole(somebody)
        assert await erase_over_http(console, OF_42, Service(url, None)) == 0
    assert gone == receipts(console) == ["2", "1", "0", "3", "4"]
    assert "erased: 5 sessions" in console.stderr_lines


async def test_what_is_never_used_up_ends_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "PASSES_MAX", 3)
    sessions = {"active": ["0"]}

    def another(session_id: str) -> int:
        sessions["active"] = [str(int(session_id) + 1)]
        return 204

    async with listing(sessions, another) as url:
        with pytest.raises(CommandFailed, match="1 sessions that are meant are left") as failed:
            await erase_over_http(FakeConsole(Settings()), OF_42, Service(url, None))
    assert failed.value.code == 1
    assert sessions == {"active": ["3"]}


async def test_what_stays_in_the_list_and_cannot_be_deleted_ends_as_a_failure() -> None:
    async with listing({"expired": ["0"]}, lambda _: 404) as url:
        with pytest.raises(CommandFailed, match="are left"):
            await erase_over_http(FakeConsole(Settings()), OF_42, Service(url, None))


@pytest.mark.parametrize("dry_run", [False, True])
async def test_it_is_said_when_nothing_matches(*, dry_run: bool) -> None:
    async with listing({}, lambda _: 404) as url:
        console = FakeConsole(Settings())
        assert await erase_over_http(console, OF_42, Service(url, None, dry_run=dry_run)) == 0
    assert any("nothing matched" in line and "--ever" in line for line in console.stderr_lines)


async def test_pages_in_the_order_of_creation_neither_skip_nor_repeat_what_is_used_meanwhile(service: Running) -> None:
    ids = [await service.session(metadata={"user_id": "42", "n": n}) for n in range(5)]
    seen: list[str] = []
    query = {"order": "created", "limit": "2", "metadata.user_id": "42"}
    while True:
        page = (await service.client.get("/api/sessions", params=query)).json()
        seen += [one["session_id"] for one in page["sessions"]]
        if "next" not in page:
            break
        await service.chat(ids[0], "hi")
        await service.chat(ids[4], "hi")
        query["cursor"] = page["next"]
    assert seen == ids[::-1]


@pytest.mark.parametrize(("first", "second"), [("created", "accessed"), ("accessed", "created")])
async def test_a_cursor_belongs_to_its_order(service: Running, first: str, second: str) -> None:
    for _ in range(2):
        await service.session()
    page = (await service.client.get("/api/sessions", params={"order": first, "limit": "1"})).json()
    refused = await service.client.get("/api/sessions", params={"order": second, "limit": "1", "cursor": page["next"]})
    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {"path": "query.cursor", "detail": "is a cursor of another order: ask with the order of the page before"}
    ]


async def test_metadata_is_found_in_either_form_of_its_letters_and_shown_as_it_was_sent(service: Running) -> None:
    decomposed, composed = "Zoe\u0308", "Zo\u00eb"
    one = await service.session(metadata={"name": decomposed})
    two = await service.session(metadata={"name": composed})
    for asked in (decomposed, composed):
        answer = await service.client.get("/api/sessions", params={"metadata.name": asked})
        assert [view["session_id"] for view in answer.json()["sessions"]] == [two, one]
        assert answer.json()["sessions"][1]["metadata"] == {"name": decomposed}


async def test_a_session_whose_forks_copy_its_texts_first_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "COPYING_POLL_S", 0.0)
    answers = {"0": [202, 202, 404], "1": [204]}
    async with listing({}, lambda session_id: answers[session_id].pop(0)) as url:
        console = FakeConsole(Settings())
        named = EraseCriteria(reason=REASONS["sessions"], session_ids=("0", "1"))
        assert await erase_over_http(console, named, Service(url, None)) == 0
    assert receipts(console) == ["0", "1"]
    assert answers == {"0": [], "1": []}


async def test_a_session_that_is_never_erased_ends_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "COPYING_POLL_S", 0.0)
    monkeypatch.setattr(erasing, "COPYING_MAX_S", -1.0)
    async with listing({"active": ["0"]}, lambda _: 202) as url:
        console = FakeConsole(Settings())
        with pytest.raises(CommandFailed, match="forks still copy"):
            await erase_over_http(console, OF_42, Service(url, None))
    assert receipts(console) == []
