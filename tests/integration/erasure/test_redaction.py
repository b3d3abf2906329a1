"""A message that is redacted is gone everywhere: from files, forks, feeds, contexts and repeated requests."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from chatbot.sessions.message_redaction import MessageRedaction
from events.integrity.chain_verifier import verify
from tests.support.command_processes import run_command
from tests.support.http.feed_reader import following
from tests.support.http.service_requests import (
    bytes_on_disk,
    forget_projections,
    messages,
    sent,
    wait_for_last_message,
)
from tests.support.log.log_files import foreign
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

SECRET = "MARK-of-this-secret"
GONE = {"type": "redacted", "kind": "text", "reason_code": "gdpr-17"}
NONE = "00000000-0000-4000-8000-000000000000"


async def ask_redact(service: Running, session_id: str, message_id: str, **body: Any) -> httpx.Response:
    body = {"reason_code": "gdpr-17", **body}
    return await service.client.post(f"/api/sessions/{session_id}/messages/{message_id}/redact", json=body)


async def redact(service: Running, session_id: str, message_id: str, **body: Any) -> dict[str, Any]:
    answer = await ask_redact(service, session_id, message_id, **body)
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


async def fork(service: Running, session_id: str) -> str:
    answer = await service.client.post(f"/api/sessions/{session_id}/fork", json={})
    return str(answer.json()["session_id"])


async def clean(service: Running, folder: Path) -> None:
    """The secret is in no file of the log or the projections, and the log verifies."""
    async with asyncio.timeout(10):
        while service.services.log.erasure_pending:
            await asyncio.sleep(0.01)
    assert SECRET.encode() not in bytes_on_disk(folder)
    verifier, fault = await verify(service.services.log)
    assert (fault, verifier.incomplete_erasures) == (None, [])


async def test_a_redacted_message_is_gone_and_its_place_says_why(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    answer = await service.chat(session_id, SECRET)
    assert SECRET in answer["content"]
    question, reply = await messages(service.client, session_id)
    receipt = await redact(service, session_id, question["message_id"], ticket="DSR-7")
    again = await redact(service, session_id, question["message_id"], reason_code="other")
    assert again == receipt
    assert (receipt["kind"], receipt["message_id"], receipt["reason_code"], receipt["ticket"]) == (
        "redaction",
        question["message_id"],
        "gdpr-17",
        "DSR-7",
    )
    (row,) = await service.services.log.rows(after=receipt["position"] - 1, limit=1)
    assert (row.digest.hex(), row.type) == (receipt["digest"], "message_redacted")
    assert "DSR" not in row.metadata
    await redact(service, session_id, reply["message_id"])
    question, reply = await messages(service.client, session_id)
    assert (question["content"], question["parts"]) == ("", [GONE])
    assert (reply["content"], reply["parts"], reply["status"]) == ("", [GONE], "complete")
    await clean(service, tmp_path)


async def test_a_redaction_and_an_erasure_are_logged_with_who_asked_and_nothing_private(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, SECRET)
    question, _ = await messages(service.client, session_id)
    with capture_logs() as logs:
        service.client.headers["X-Request-ID"] = "r-redact"
        await redact(service, session_id, question["message_id"], ticket="DSR-7")
        service.client.headers["X-Request-ID"] = "r-erase"
        path = f"/api/sessions/{session_id}?reason_code=gdpr-17&ticket=DSR-7"
        assert (await service.client.delete(path)).is_success
    redacted, erased = (one for one in logs if one["event"] in {"message.redacted", "session.erased"})
    assert (redacted["request_id"], redacted["reason_code"], redacted["by"]) == ("r-redact", "gdpr-17", None)
    assert (erased["request_id"], erased["reason_code"], erased["by"]) == ("r-erase", "gdpr-17", None)
    assert (erased["reason"], erased["cause"]) == ("request", None)
    for private in (session_id, question["message_id"], SECRET, "DSR-7"):
        assert private not in str([redacted, erased])


async def test_the_model_is_sent_a_placeholder_and_roles_alternate(
    service: Running, model: ModelServer, tmp_path: Path
) -> None:
    session_id = await service.session(system_prompt="Be kind.")
    await service.chat(session_id, SECRET)
    question, reply = await messages(service.client, session_id)
    for message in (question, reply):
        await redact(service, session_id, message["message_id"])
    await service.chat(session_id, "and now?")
    context = model.requests[-1].body["messages"]
    assert [(one["role"], one["content"]) for one in context] == [
        ("system", "Be kind."),
        ("user", "[redacted]"),
        ("assistant", "[redacted]"),
        ("user", "and now?"),
    ]
    await clean(service, tmp_path)


async def test_forks_lose_the_message_with_the_session_that_has_its_text(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    await service.chat(session_id, SECRET)
    question, reply = await messages(service.client, session_id)
    first = await fork(service, session_id)
    second = await fork(service, first)
    await redact(service, second, question["message_id"], ticket="DSR-7")  # through a fork of a fork
    await redact(service, session_id, reply["message_id"])
    for one in (session_id, first, second):
        assert [(m["content"], m["parts"]) for m in await messages(service.client, one)] == [("", [GONE])] * 2
        redactions = [one for one in await events(service, one) if one["type"] == "message_redacted"]
        assert [one["data"]["message_id"] for one in redactions] == [question["message_id"], reply["message_id"]]
        assert redactions[0]["data"]["ticket"] == "DSR-7"
    await clean(service, tmp_path)


async def test_copies_in_forks_of_an_erased_session_go_with_each_other(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    await service.chat(session_id, SECRET)
    question, reply = await messages(service.client, session_id)
    forks = [await fork(service, session_id) for _ in range(2)]
    assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
    await redact(service, forks[0], question["message_id"])
    for one in forks:
        assert (await messages(service.client, one))[0]["parts"] == [GONE]
    late = await fork(service, forks[1])
    await redact(service, late, reply["message_id"])
    for one in (*forks, late):
        assert [m["parts"] for m in await messages(service.client, one)] == [[GONE]] * 2
    await clean(service, tmp_path)


async def test_a_redacted_message_that_is_copied_into_a_fork_stays_redacted(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    await service.chat(session_id, SECRET)
    question, reply = await messages(service.client, session_id)
    await redact(service, session_id, question["message_id"])
    forked = await fork(service, session_id)
    await redact(service, session_id, reply["message_id"])
    assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
    assert [m["parts"] for m in await messages(service.client, forked)] == [[GONE]] * 2
    await clean(service, tmp_path)


async def test_readers_are_told_and_one_that_comes_back_is_sent_nothing_that_is_gone(
    service: Running, tmp_path: Path
) -> None:
    session_id = await service.session()
    await service.chat(session_id, "one")
    forked = await fork(service, session_id)
    question, reply = await messages(service.client, session_id)
    async with following(service.client, session_id) as feed, following(service.client, forked) as other:
        await redact(service, session_id, reply["message_id"])
        for reader in (feed, other):
            frame = (await reader.until("redacted"))[-1]
            assert (frame["message_id"], frame["part"], frame["reason_code"]) == (reply["message_id"], None, "gdpr-17")
    async with following(service.client, session_id, after="0:0") as feed:
        frames = await feed.until("redacted")
    assert "You said" not in str(frames)
    async with following(service.client, session_id, after="3:2") as feed:  # within the reply
        assert "You said" not in str(await feed.until("redacted"))
    question, reply = await messages(service.client, session_id)
    assert (question["content"], reply["content"]) == ("one", "")


async def test_what_cannot_be_redacted_is_refused(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    await service.chat(session_id, "one")
    question, _ = await messages(service.client, session_id)
    missing = await ask_redact(service, session_id, NONE)
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/message-not-found")
    assert (await ask_redact(service, NONE, question["message_id"])).status_code == 404
    beyond = await ask_redact(service, session_id, question["message_id"], part=1)
    assert (beyond.status_code, beyond.json()["errors"][0]["path"]) == (422, "$.part")
    assert (await ask_redact(service, session_id, question["message_id"], reason_code="Für")).status_code == 422
    held = await service.client.post("/api/holds", json={"reason": "litigation", "session_id": session_id})
    answer = await ask_redact(service, session_id, question["message_id"])
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/session-held")
    await service.client.post(f"/api/holds/{held.json()['hold_id']}/release", json={"reason": "done"})
    model.script(pieces=("a ", "b"), hold_after=1)
    running = asyncio.create_task(service.chat(session_id, "two"))
    await wait_for_last_message(service.client, session_id, content="a ")
    answer = await ask_redact(service, session_id, question["message_id"])
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/session-busy")
    await service.client.post(f"/api/sessions/{session_id}/cancel")
    await running
    assert (await messages(service.client, session_id))[0]["content"] == "one"
    await redact(service, session_id, question["message_id"])


async def test_a_message_that_was_taken_back_can_be_redacted(
    service: Running, model: ModelServer, tmp_path: Path
) -> None:
    session_id = await service.session()
    model.script(pieces=("a ", "b"), hold_after=1)
    running = asyncio.create_task(service.chat(session_id, "one"))
    await wait_for_last_message(service.client, session_id, content="a ")
    body = {"session_id": session_id, "message": SECRET}
    queued = (await service.client.post("/api/chat", json=body, headers={"Prefer": "respond-async"})).json()
    message_id = queued["user_message_id"]
    assert (await service.client.delete(f"/api/sessions/{session_id}/messages/{message_id}")).status_code == 200
    model.release()
    await running
    receipt = await redact(service, session_id, message_id)
    assert (receipt["message_id"], receipt["events_erased"]) == (message_id, 1)
    assert await redact(service, session_id, message_id) == receipt
    reply_id = queued["message_id"]
    assert (await ask_redact(service, session_id, reply_id)).status_code == 404
    assert [one["content"] for one in await messages(service.client, session_id)] == ["one", "a b"]
    for command in ("replay", "report"):
        result = await run_command(tmp_path, command, "--session", session_id)
        assert (result.returncode, SECRET in result.stdout) == (0, False), result.stderr
    await clean(service, tmp_path)


async def test_the_same_request_finishes_a_redaction_whose_erasure_is_missing(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    await service.chat(session_id, SECRET)
    question, reply = await messages(service.client, session_id)
    foreign(tmp_path / "chatbot.db", "DROP TRIGGER events_redact").close()
    for one in (question, reply):
        await redact(service, session_id, one["message_id"])
    verifier, fault = await verify(service.services.log)
    assert (fault, len(verifier.incomplete_erasures)) == (None, 1)
    await redact(service, session_id, question["message_id"])
    await clean(service, tmp_path)


async def test_a_hold_on_a_fork_that_comes_after_the_checks_keeps_the_text(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await service.session()
    await service.chat(session_id, "one")
    question, _ = await messages(service.client, session_id)
    forked = await fork(service, session_id)
    check = MessageRedaction._check

    async def held_after(self: MessageRedaction, *arguments: Any) -> int:
        version = await check(self, *arguments)
        await service.client.post("/api/holds", json={"reason": "litigation", "session_id": forked})
        return version

    monkeypatch.setattr(MessageRedaction, "_check", held_after)
    answer = await ask_redact(service, session_id, question["message_id"])
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/session-held")
    assert (await messages(service.client, session_id))[0]["content"] == "one"


async def test_a_repeated_request_does_not_bring_a_redacted_message_back(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    body, headers = {"session_id": session_id, "message": SECRET}, {"Idempotency-Key": "once"}
    await service.client.post("/api/chat", json=body, headers=headers)
    question, reply = await messages(service.client, session_id)
    await redact(service, session_id, question["message_id"])
    await redact(service, session_id, reply["message_id"])
    again = await service.client.post("/api/chat", json=body, headers=headers)
    assert (again.status_code, again.json()["type"]) == (422, "/problems/key-spent")
    assert len(await messages(service.client, session_id)) == 2
    await clean(service, tmp_path)


async def test_a_rebuild_of_the_projections_and_a_restart_change_nothing(model: ModelServer, tmp_path: Path) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session()
        await service.chat(session_id, SECRET)
        await service.chat(session_id, "two")
        question = (await messages(service.client, session_id))[0]
        reply = (await messages(service.client, session_id))[1]
        for one in (question, reply):
            await redact(service, session_id, one["message_id"])
        before = await messages(service.client, session_id)
        view = (await service.client.get(f"/api/sessions/{session_id}")).json()
    forget_projections(tmp_path)
    async with serving(tmp_path, model.url) as service:
        assert await messages(service.client, session_id) == before
        assert (await service.client.get(f"/api/sessions/{session_id}")).json() == view
        await service.chat(session_id, "three")
        assert sent(model) == ["[redacted]", "[redacted]", "two", "You said: two", "three"]
        await clean(service, tmp_path)


async def test_an_expired_session_can_be_redacted(model: ModelServer, tmp_path: Path) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session(timeout_hours=0.0005)
        await service.chat(session_id, SECRET)
        question, reply = await messages(service.client, session_id)
        async with asyncio.timeout(10):
            while (await service.client.get(f"/api/sessions/{session_id}")).status_code == 200:
                await asyncio.sleep(0.6)
        for one in (question, reply):
            await redact(service, session_id, one["message_id"])
        await clean(service, tmp_path)


async def test_views_of_the_past_show_the_redaction_and_not_the_text(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    await service.chat(session_id, SECRET)
    question, reply = await messages(service.client, session_id)
    for one in (question, reply):
        await redact(service, session_id, one["message_id"])
    for path in (
        f"/api/sessions/{session_id}/export?format=markdown",
        f"/api/sessions/{session_id}/events",
        "/api/sessions?preview=true",
    ):
        answer = await service.client.get(path)
        assert answer.status_code == 200, answer.text
        assert SECRET not in answer.text
    for command in (
        ("replay", "--session", session_id, "--as-of", "3"),
        ("replay", "--session", session_id),
    ):
        result = await run_command(tmp_path, *command)
        assert SECRET not in result.stdout
        assert "redacted" in result.stdout, (command, result.stdout, result.stderr)


async def events(service: Running, session_id: str) -> list[dict[str, Any]]:
    answer = await service.client.get(f"/api/sessions/{session_id}/events")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["events"]
    return found
