"""Reports over HTTP: the same as on the command line, for auditors only, and read from the log piece by piece."""

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from chatbot.api.openapi.document import build_openapi_document
from chatbot.api.routes import audit_routes
from chatbot.audit.report.entries import ReportLine
from chatbot.cli.proof.prove import check_proof
from chatbot.config.settings import Settings
from chatbot.runtime.throttle import PIECE_BYTES
from events.integrity.hash_chain import GENESIS
from events.integrity.log_identity import log_identity
from events.integrity.merkle_tree import MerkleTree
from events.integrity.signed_checkpoint import LogCheckpoint, make_key, sign
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

KEYS = "mina:key-of-mina-0123456789,jun:key-of-jun-0123456789,eve:key-of-eve-0123456789"
AUDITED = {"CHATBOT_API_KEYS": KEYS, "CHATBOT_AUTH_AUDITORS": "eve"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer key-of-{name}-0123456789"}


async def lines(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """The entries of a report as the types of the document have them; the last line attests the others."""
    answer = await client.get("/api/audit/report", params={**query, "format": "ndjson"}, headers=key("eve"))
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/x-ndjson"), answer.text
    *body, end, nothing = answer.text.split("\n")
    sha256 = hashlib.sha256("".join(f"{line}\n" for line in body).encode()).hexdigest()
    assert (json.loads(end), nothing) == ({"type": "end", "lines": len(body), "sha256": sha256}, "")
    for line in body:
        msgspec.json.decode(line, type=ReportLine)
    return [json.loads(line) for line in body]


def sessions_in(entries: list[dict[str, Any]]) -> list[str]:
    return [one["session_id"] for one in entries if one["type"] == "session"]


async def test_an_auditor_gets_reports_by_session_owner_and_metadata(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **AUDITED) as service:
        client, ids = service.client, []
        for name, user in (("mina", "42"), ("jun", "42"), ("mina", "43")):
            body = {"metadata": {"user_id": user}, "title": "<script>alert(1)</script>"}
            ids.append((await client.post("/api/sessions", json=body, headers=key(name))).json()["session_id"])
            asked = {"session_id": ids[-1], "message": f"hello of {name}"}
            await client.post("/api/chat", json=asked, headers=key(name))
        await client.patch(f"/api/sessions/{ids[0]}", json={"metadata": {"user_id": "44"}}, headers=key("mina"))
        assert (await client.delete(f"/api/sessions/{ids[2]}", headers=key("mina"))).status_code == 204
        head = service.services.log.head()
        assert sessions_in(await lines(client, session_id=f"{ids[1]},{ids[0].upper()}")) == [ids[1], ids[0]]
        of_mina = await lines(client, owner="mina", requests="true")
        assert sessions_in(of_mina) == [ids[0], ids[2]], "the erased one, too"
        reply = next(one for one in of_mina if one["type"] == "message" and one["role"] == "assistant")
        assert reply["request"]["messages"][-1]["content"] == "hello of mina"
        assert of_mina[0]["totals"]["erased_events"] > 0
        assert sessions_in(await lines(client, **{"metadata.user_id": "42"})) == [ids[1]]
        assert sessions_in(await lines(client, **{"metadata.user_id": "42", "ever": "true"})) == [ids[0], ids[1]]
        page = await client.get(f"/api/audit/report?session_id={ids[1]}", headers=key("eve"))
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert page.headers["Content-Disposition"].startswith("attachment")
        assert page.headers["Content-Security-Policy"].endswith("sandbox")
        assert "hello of jun" in page.text
        assert "<script" not in page.text
        for name in ("mina", "jun"):
            answer = await client.get(f"/api/audit/report?session_id={ids[0]}", headers=key(name))
            assert answer.status_code == 403
        assert service.services.log.head() == head, "nothing is appended"


async def test_a_report_over_http_has_proofs_that_the_command_accepts(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "hi")
    log, tree = service.services.log, MerkleTree()
    for row in await log.rows(limit=1000):
        tree.add(row.digest)
    head, (signer, verifier) = log.head(), make_key("test")
    origin, root = await log_identity(log), tree.close()[0]
    statement = LogCheckpoint(origin, head.position, root, head.digest, "2026-01-31T09:30:00Z")
    note = sign(statement, signer)
    entries = await lines(service.client, session_id=session_id, checkpoint=note)
    (proof,) = [one for one in entries if one["type"] == "proof"]
    checked = check_proof(json.dumps(proof["proof"]), verifier)
    assert (checked.range.session, len(checked.events)) == (session_id, proof["last_version"])  # type: ignore[union-attr]
    other = msgspec.structs.replace(statement, root=GENESIS)
    query = {"session_id": session_id, "checkpoint": sign(other, signer)}
    refused = await service.client.get("/api/audit/report", params=query)
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "query.checkpoint")


@pytest.mark.parametrize(
    ("query", "status", "path"),
    [
        ("", 422, "query"),
        ("owner=mina&metadata.user_id=42", 422, "query"),
        ("session_id=x", 422, "query.session_id"),
        (f"session_id={UNKNOWN}", 404, None),
        ("owner=nobody", 404, None),
        (f"session_id={UNKNOWN}&format=pdf", 422, "query.format"),
        ("owner=mina&checkpoint=x", 404, None),
        ("owner=mina&since=2026-01-01", 422, "query.since"),
    ],
)
async def test_a_report_on_nothing_or_on_too_much_is_refused(
    service: Running, query: str, status: int, path: str | None
) -> None:
    answer = await service.client.get(f"/api/audit/report?{query}")
    assert answer.status_code == status
    if path is not None:
        assert answer.json()["errors"][0]["path"] == path


async def test_a_long_session_is_written_in_pieces_and_its_texts_are_never_in_memory_together(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await service.session()
    for n in range(12):
        await service.chat(session_id, f"{n} " + "x" * 30_000)
    sizes: list[int] = []
    send: Any = vars(audit_routes)["send_document"]

    async def watched(request: Any, pieces: Any, headers: Any) -> Any:
        async def counted() -> Any:
            async for piece in pieces:
                sizes.append(len(piece))
                yield piece

        return await send(request, counted(), headers)

    monkeypatch.setattr(audit_routes, "send_document", watched)
    text = (await service.client.get(f"/api/audit/report?session_id={session_id}&format=ndjson")).text
    assert len(text) > 12 * 60_000
    assert len(sizes) > 4
    assert max(sizes) < 2 * PIECE_BYTES


def test_the_document_names_every_kind_of_line() -> None:
    schemas = build_openapi_document(Settings(), "1.2.3")["components"]["schemas"]
    kinds = {one["$ref"].rpartition("/")[2] for one in schemas["ReportLine"]["anyOf"]}
    assert kinds >= {"ReportHead", "SessionEntry", "MessageEntry", "ReceiptEntry", "ProofEntry", "ReportEnd"}
