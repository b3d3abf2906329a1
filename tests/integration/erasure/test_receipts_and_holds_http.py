"""Receipts, erasures of many sessions and legal holds over HTTP."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from chatbot.api.erasure import bulk_erasure
from chatbot.audit.receipt import Receipt
from chatbot.audit.receipt_signature import check_receipt
from chatbot.keys.key_state import AddKey
from chatbot.keys.scopes import AUDIT, ERASE, HOLD
from chatbot.sessions import erasure_job
from chatbot.sessions.actor import actor
from events.integrity.chain_verifier import verify
from events.integrity.signed_checkpoint import InvalidCheckpoint, make_key
from events.record import Metadata
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

NONE = "00000000-0000-4000-8000-000000000000"


async def erase(service: Running, **body: Any) -> list[dict[str, Any]]:
    body = {"reason_code": "gdpr-17", "ticket": "DSR-7", **body}
    answer = await service.client.post("/api/erasures", json=body, headers={"Accept": "application/x-ndjson"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def erased(lines: list[dict[str, Any]]) -> list[str]:
    return [line["receipt"]["session_id"] for line in lines if "receipt" in line]


async def hold(service: Running, **body: Any) -> dict[str, Any]:
    answer = await service.client.post("/api/holds", json={"reason": "litigation", **body})
    assert answer.status_code == 201, answer.text
    held: dict[str, Any] = answer.json()
    return held


async def test_delete_takes_a_reason_and_its_receipt_can_be_read_afterwards(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "hello")
    path = f"/api/sessions/{session_id}"
    assert (await service.client.get(f"{path}/receipt")).json()["type"].endswith("/no-receipt")
    answer = await service.client.delete(path, params={"reason_code": "gdpr-17", "ticket": "DSR 7/2026"})
    assert (answer.status_code, answer.content) == (204, b"")
    receipt = (await service.client.get(f"{path}/receipt")).json()
    assert (receipt["kind"], receipt["reason"], receipt["reason_code"], receipt["ticket"]) == (
        "erasure",
        "request",
        "gdpr-17",
        "DSR 7/2026",
    )
    (row,) = await service.services.log.rows(after=receipt["position"] - 1, limit=1)
    assert (row.digest.hex(), row.type, row.version - 1) == (
        receipt["digest"],
        "session_deleted",
        receipt["events_erased"],
    )
    assert "DSR" not in row.metadata
    assert (await service.client.get(f"/api/sessions/{NONE}/receipt")).status_code == 404
    bare = await service.session()
    await service.client.delete(f"/api/sessions/{bare}")
    receipt = (await service.client.get(f"/api/sessions/{bare}/receipt")).json()
    assert (receipt["reason_code"], receipt["ticket"]) == ("request", None)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"reason_code": "Für immer"}, "reason_code"),
        ({"ticket": " "}, "ticket"),
        ({"ticket": "x" * 201}, "ticket"),
        ({"reson": "x"}, "reson"),
    ],
)
async def test_a_reason_that_is_none_is_refused_and_erases_nothing(
    service: Running, query: dict[str, str], name: str
) -> None:
    session_id = await service.session()
    answer = await service.client.delete(f"/api/sessions/{session_id}", params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == f"query.{name}"
    assert (await service.client.get(f"/api/sessions/{session_id}")).status_code == 200


async def test_the_receipt_of_a_background_erasure_comes_when_it_is_done(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "COPY_INLINE_TEXTS_MAX", 0)
    monkeypatch.setattr(erasure_job, "POLL_S", 0.02)
    session_id = await service.session()
    await service.chat(session_id, "hello")
    fork = (await service.client.post(f"/api/sessions/{session_id}/fork", json={})).json()["session_id"]
    held = await hold(service, session_id=session_id)
    assert held["session_status"] == "active"
    path = f"/api/sessions/{session_id}"
    assert (await service.client.post(f"/api/holds/{held['hold_id']}/release", json={"reason": "x"})).status_code == 200
    answer = await service.client.delete(path, params={"reason_code": "gdpr-17"})
    assert (answer.status_code, answer.json()["status"]) == (202, "erasing")
    while (answer := await service.client.get(f"{path}/receipt")).status_code == 202:
        assert answer.json()["status"] == "erasing"
    assert answer.json()["reason_code"] == "gdpr-17"
    assert (await service.client.get(f"/api/sessions/{fork}/messages")).json()["total_count"] == 2


async def test_a_held_session_is_refused_with_the_holds_reason_until_it_is_released(service: Running) -> None:
    session_id = await service.session(metadata={"user_id": 42})
    held = await hold(service, metadata={"user_id": "42"}, ticket="LEGAL-1")
    assert (held["metadata"], held["ticket"], held["session_status"]) == ({"user_id": "42"}, "LEGAL-1", None)
    answer = await service.client.delete(f"/api/sessions/{session_id}")
    problem = answer.json()
    assert (answer.status_code, problem["type"].rpartition("/")[2]) == (409, "session-held")
    assert (problem["hold_id"], problem["reason"]) == (held["hold_id"], "litigation")
    assert "LEGAL-1" not in answer.text
    assert "chatbot_holds 1.0" in (await service.client.get("/metrics")).text
    assert "chatbot_erasures_held_total 1.0" in (await service.client.get("/metrics")).text
    listed = (await service.client.get("/api/holds")).json()
    assert [one["hold_id"] for one in listed["holds"]] == [held["hold_id"]]
    lines = await erase(service, session_ids=[session_id])
    assert lines[0]["not_erased"] == {
        "session_id": session_id,
        "status": "held",
        "reason": "litigation",
        "hold_id": held["hold_id"],
    }
    release = f"/api/holds/{held['hold_id']}/release"
    assert (await service.client.post(release, json={"reason": "settled"})).json()["hold_id"] == held["hold_id"]
    assert (await service.client.post(release, json={"reason": "settled"})).status_code == 404
    assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
    assert (await service.client.get("/api/holds")).json() == {"holds": [], "released": 1}
    forgotten = (await service.client.post("/api/holds/forget")).json()
    assert forgotten["holds"] == 1
    assert (await service.client.post("/api/holds/forget")).json()["holds"] == 0
    rows = await service.services.log.stream_rows("holds", limit=10)
    assert [row.data is None for row in rows] == [True, True, False]
    assert (await verify(service.services.log))[1] is None


async def test_a_hold_says_that_its_session_is_gone_already(service: Running) -> None:
    session_id = await service.session()
    await service.client.delete(f"/api/sessions/{session_id}")
    assert (await hold(service, session_id=session_id))["session_status"] == "deleted"
    answer = await service.client.post("/api/holds", json={"reason": "x", "session_id": NONE})
    assert answer.status_code == 404


@pytest.mark.parametrize("body", [{}, {"owner": "a", "session_id": NONE}, {"session_id": "x" * 36}, {"metadata": {}}])
async def test_a_hold_on_nothing_or_on_two_things_is_refused(service: Running, body: dict[str, Any]) -> None:
    assert (await service.client.post("/api/holds", json={"reason": "x", **body})).status_code == 422


async def test_many_sessions_go_in_bounded_requests_and_a_cursor_passes_over_held_ones(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_erasure, "CANDIDATES_PAGE", 2)
    mine = [await service.session(metadata={"user_id": "42"}) for _ in range(7)]
    kept = await service.session(metadata={"user_id": "43"})
    for session_id in mine[-2:]:
        await hold(service, session_id=session_id)
    preview = await erase(service, metadata={"user_id": "42"}, dry_run=True)
    assert [line["not_erased"]["session_id"] for line in preview[:2]] == mine[:-3:-1]
    assert {line["not_erased"]["status"] for line in preview[:2]} == {"held"}
    assert [line["to_erase"]["session_id"] for line in preview[2:-1]] == mine[-3::-1]
    assert preview[-1] == {"summary": {"erased": 0, "not_erased": 2, "next": None}}
    gone: list[str] = []
    cursor, rounds = None, 0
    while cursor is not None or not rounds:
        lines = await erase(service, metadata={"user_id": "42"}, limit=3, cursor=cursor)
        assert len(lines) <= 4
        gone += erased(lines)
        cursor, rounds = lines[-1]["summary"]["next"], rounds + 1
    assert gone == mine[-3::-1]
    assert rounds == 3
    left = (await service.client.get("/api/sessions")).json()["sessions"]
    assert {one["session_id"] for one in left} == {kept, *mine[-2:]}
    whole = {"reason_code": "gdpr-17", "session_ids": [mine[0], NONE]}
    answer = await service.client.post("/api/erasures", json=whole)
    repeated = await erase(service, session_ids=[mine[0], NONE])
    assert answer.json() == {"lines": repeated}
    assert erased(repeated) == [mine[0]]
    assert repeated[0]["receipt"]["ticket"] == "DSR-7"
    assert repeated[1]["not_erased"] == {"session_id": NONE, "status": "missing"}


@pytest.mark.parametrize("name", ["reason_code", "ticket"])
async def test_a_line_feed_at_the_end_is_no_part_of_a_code_or_ticket(service: Running, name: str) -> None:
    """A redacted part with such a code could not be copied into forks, so its session could not be erased."""
    session_id = await service.session()
    await service.chat(session_id, "hello")
    message_id = (await service.history(session_id))["messages"][0]["message_id"]
    bodies: dict[str, dict[str, Any]] = {
        f"/api/sessions/{session_id}/messages/{message_id}/redact": {},
        "/api/erasures": {"session_ids": [session_id]},
        "/api/holds": {"session_id": session_id, "reason": "litigation"},
        f"/api/holds/{NONE}/release": {"reason": "done"},
    }
    for path, body in bodies.items():
        if name == "reason_code" and "holds" in path:
            continue
        given = body if "holds" in path else {"reason_code": "gdpr-17", **body}
        answer = await service.client.post(path, json={**given, name: "gdpr-17\n"})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, f"$.{name}"), answer.text


async def test_named_sessions_beyond_the_limit_are_left_to_the_next_request(service: Running) -> None:
    named = [await service.session() for _ in range(3)]
    gone: list[str] = []
    cursor = None
    for left in (True, False):
        lines = await erase(service, session_ids=named, limit=2, cursor=cursor)
        gone += erased(lines)
        cursor = lines[-1]["summary"]["next"]
        assert (cursor is not None) == left
    assert gone == named[::-1]


async def test_past_metadata_count_with_ever_and_the_log_is_read_in_bounded_pieces(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_erasure, "SCANNED_PAGE", 2)
    monkeypatch.setattr(bulk_erasure, "SCANNED_MAX", 4)
    changed = [await service.session(metadata={"user_id": "42"}) for _ in range(3)]
    for session_id in changed:
        await service.client.patch(f"/api/sessions/{session_id}", json={"metadata": {"user_id": "43"}})
    assert erased(await erase(service, metadata={"user_id": "42"})) == []
    gone: list[str] = []
    cursor, rounds = None, 0
    while cursor is not None or not rounds:
        lines = await erase(service, metadata={"user_id": "42"}, ever=True, cursor=cursor)
        gone += erased(lines)
        cursor, rounds = lines[-1]["summary"]["next"], rounds + 1
    assert sorted(gone) == sorted(changed)
    assert rounds > 1


async def test_keys_without_the_scopes_get_403_and_others_sessions_stay(tmp_path: Path, model: ModelServer) -> None:
    async with serving(
        tmp_path, model.url, CHATBOT_API_KEYS="mina:secret-of-mina-0001,jun:secret-of-jun-00002"
    ) as service:
        mina, jun = ({"X-API-Key": key} for key in ("secret-of-mina-0001", "secret-of-jun-00002"))
        session_id = (await service.client.post("/api/sessions", headers=mina)).json()["session_id"]
        for method, path in (("GET", "/api/holds"), ("POST", "/api/holds"), ("POST", "/api/erasures")):
            answer = await service.client.request(method, path, headers=mina)
            assert answer.status_code == 403
        await service.client.delete(f"/api/sessions/{session_id}", headers=mina)
        receipt = f"/api/sessions/{session_id}/receipt"
        assert (await service.client.get(receipt, headers=mina)).status_code == 200
        assert (await service.client.get(receipt, headers=jun)).status_code == 404


async def test_who_holds_cannot_erase_and_who_erases_cannot_hold_and_neither_reads(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS="mina:secret-of-mina-0001") as service:
        headers = {"mina": {"X-API-Key": "secret-of-mina-0001"}}
        for name, scope in (("petra", ERASE), ("lena", HOLD), ("arne", AUDIT)):
            _, secret = await service.services.keys.change(AddKey(name, (scope,)), Metadata())
            headers[name] = {"X-API-Key": secret}
        session_id = (await service.client.post("/api/sessions", headers=headers["mina"])).json()["session_id"]

        async def status(name: str, method: str, path: str, **body: Any) -> int:
            answer = await service.client.request(method, path, headers=headers[name], json=body or None)
            return answer.status_code

        session, holds = f"/api/sessions/{session_id}", "/api/holds"
        held = {"reason": "litigation", "session_id": session_id}
        assert await status("petra", "POST", holds, **held) == 403
        assert await status("mina", "POST", holds, **held) == 403
        assert await status("arne", "POST", holds, **held) == 403
        assert await status("lena", "POST", holds, **held) == 201
        assert await status("arne", "GET", holds) == 200
        assert await status("petra", "GET", holds) == 403
        assert await status("lena", "DELETE", session) == 403
        assert await status("petra", "DELETE", session) == 409
        assert await status("petra", "GET", f"{session}/messages") == 403
        assert await status("lena", "GET", f"{session}/messages") == 403
        (hold_id,) = (await service.services.holds.read()).holds
        assert await status("petra", "POST", f"{holds}/{hold_id}/release", reason="x") == 403
        assert await status("lena", "POST", f"{holds}/{hold_id}/release", reason="x") == 200
        assert await status("lena", "POST", "/api/erasures", session_ids=[session_id], reason_code="x") == 403
        assert await status("petra", "POST", "/api/erasures", session_ids=[session_id], reason_code="x") == 200
        for name in ("mina", "petra", "arne"):
            assert await status(name, "GET", f"{session}/receipt") == 200
        assert await status("lena", "GET", f"{session}/receipt") == 403
        recorded = await service.services.log.read(session_id, limit=1, backwards=True)
        assert recorded[0].metadata.actor == "petra"


async def test_the_ticket_of_an_erasure_can_be_erased_and_the_rest_of_its_receipt_stays(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "hello")
    path = f"/api/sessions/{session_id}"
    forget = f"{path}/receipt/forget-ticket"
    assert (await service.client.post(forget)).status_code == 404
    await service.client.delete(path, params={"reason_code": "gdpr-17", "ticket": "SECRET-TICKET"})
    before = (await service.client.get(f"{path}/receipt")).json()
    held = await hold(service, session_id=session_id)
    assert (await service.client.post(forget)).status_code == 409
    await service.client.post(f"/api/holds/{held['hold_id']}/release", json={"reason": "settled"})
    usage = (await service.client.get("/api/usage")).json()
    for _ in range(2):
        answer = await service.client.post(forget)
        assert (answer.status_code, answer.json()) == (200, {**before, "ticket": None})
    assert (await service.client.get(f"{path}/receipt")).json() == {**before, "ticket": None}
    assert (await service.client.delete(path)).status_code == 404
    log = service.services.log
    rows = await log.stream_rows(session_id, limit=100)
    assert [row.type for row in rows[-2:]] == ["session_deleted", "session_deleted"]
    assert [row.data is None for row in rows[-2:]] == [True, False]
    assert (await verify(log))[1] is None
    assert (await service.client.get("/api/usage")).json() == usage


async def test_a_service_with_a_key_signs_its_receipts(tmp_path: Path, model: ModelServer) -> None:
    signer, verifier = make_key("receipts")
    key = tmp_path / "receipts.key"
    key.write_text(signer)
    async with serving(tmp_path, model.url, CHATBOT_ANCHORS_KEY_FILE=str(key)) as service:
        session_id = await service.session()
        (line, _) = await erase(service, session_ids=[session_id])
        answer = await service.client.get(f"/api/sessions/{session_id}/receipt")
    assert answer.json() == line["receipt"]
    receipt = msgspec.json.decode(answer.content, type=Receipt)
    check_receipt(receipt, verifier)
    with pytest.raises(InvalidCheckpoint):
        check_receipt(replace(receipt, ticket="another"), verifier)
