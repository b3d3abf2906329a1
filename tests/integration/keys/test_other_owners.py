"""What belongs to another key is answered like what does not exist, byte for byte, by every operation."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from chatbot.api.openapi.document import build_openapi_document
from chatbot.config.settings import Settings
from tests.support.http.named_requests import (
    ALWAYS_GIVEN,
    BODIES,
    NOT_BY_OWNER,
    UNKNOWN_STATUS,
    Named,
    NamedRequest,
    named_requests,
)
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

MINA, JUN = "a-secret-of-minas-own", "a-secret-of-juns-own"
pytestmark = pytest.mark.asyncio(loop_scope="module")
REQUESTS = list(named_requests())
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
UNKNOWN_FILE = "0" * 64


class TwoOwners:
    """A service where mina has sessions in every state."""

    def __init__(self, service: Running) -> None:
        self.service = service
        self.named: dict[str, Named] = {}

    async def make_sessions(self) -> None:
        client = self.service.client
        client.headers["X-API-Key"] = MINA
        sha256 = (await client.post("/api/media", content=PNG, headers={"Content-Type": "image/png"})).json()["sha256"]
        for state in ("active", "expired", "deleted"):
            timeout = {"timeout_hours": 1 / 3600} if state == "expired" else {}
            session_id = await self.service.session(title="private", **timeout)
            parts = [{"type": "media", "sha256": sha256, "name": "a.png"}, {"type": "text", "text": "hi"}]
            turn = await client.post("/api/chat", json={"session_id": session_id, "message": parts})
            assert turn.status_code == 200, turn.text
            self.named[state] = Named(session_id, turn.json()["user_message_id"], sha256, turn.json()["message_id"])
        assert (await client.delete(f"/api/sessions/{self.named['deleted'].session_id}")).status_code == 204
        async with asyncio.timeout(10):
            while (await client.get(f"/api/sessions/{self.named['expired'].session_id}")).status_code == 200:
                await asyncio.sleep(0.1)

    async def answer(
        self, request: NamedRequest, named: Named, secret: str = JUN, **headers: str
    ) -> tuple[object, ...]:
        """All that a client sees, without what differs between any two requests, and with the names left out."""
        client = self.service.client
        answer = await client.send(request.build(client, named, **{"X-API-Key": secret, **headers}))
        shown = answer.text
        for name in (named.session_id, named.message_id, named.sha256, named.reply_id):
            shown = shown.replace(name, "NAME").replace(name.replace("-", ""), "NAME")
        kept = [(name, value) for name, value in answer.headers.multi_items() if name not in ("date", "x-request-id")]
        return answer.status_code, kept, shown


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def owners(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TwoOwners]:
    async with (
        ModelServer() as model,
        serving(tmp_path_factory.mktemp("owners"), model.url, CHATBOT_API_KEYS=f"mina:{MINA},jun:{JUN}") as service,
    ):
        made = TwoOwners(service)
        await made.make_sessions()
        yield made


def unknown() -> Named:
    return Named(str(uuid.uuid4()), str(uuid.uuid4()), UNKNOWN_FILE, str(uuid.uuid4()))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one.operation)
@pytest.mark.parametrize("state", ["active", "expired", "deleted"])
@pytest.mark.parametrize("headers", [{}, {"If-Match": '"1"'}], ids=["plain", "if-match"])
async def test_another_owners_session_is_like_none(
    owners: TwoOwners, request_: NamedRequest, state: str, headers: dict[str, str]
) -> None:
    expected = await owners.answer(request_, unknown(), **headers)
    assert expected[0] == UNKNOWN_STATUS.get(request_.operation, 404)
    assert await owners.answer(request_, owners.named[state], **headers) == expected


NOT_BY_ITS_OWNER = ("delete_session", "redact_message", "follow_session", "read_receipt")


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one.operation)
async def test_the_owner_itself_gets_another_answer(owners: TwoOwners, request_: NamedRequest) -> None:
    """Else the comparison above shows nothing: the requests are valid but for the name."""
    if request_.operation in NOT_BY_ITS_OWNER or request_.operation.startswith("v1_delete_"):
        return  # they would change what the other tests use, or never end; a receipt is of deleted sessions
    named = owners.named["active"]
    answer = await owners.answer(request_, named, MINA)
    assert answer[0] != 404 or request_.operation == "remove_queued_message", answer


async def test_every_operation_that_takes_a_session_id_is_compared() -> None:
    document = build_openapi_document(Settings(), "0", has_keys=True)
    schemas = document["components"]["schemas"]
    compared = {one.operation for one in REQUESTS} | ALWAYS_GIVEN | NOT_BY_OWNER
    for methods in document["paths"].values():
        for operation in methods.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            name = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
            takes = "session_id" in schemas.get(name, {}).get("properties", {})
            assert not takes or operation["operationId"] in compared, operation["operationId"]
    assert set(BODIES) <= compared


async def test_a_message_or_file_of_others_in_an_own_session_is_like_none(owners: TwoOwners) -> None:
    client = owners.service.client
    headers = {"X-API-Key": JUN}
    session = (await client.post("/api/sessions", headers=headers)).json()["session_id"]
    of_mina, none = owners.named["active"], unknown()
    bodies = [
        ("POST", f"/api/sessions/{session}/branch", '{"message_id": "MESSAGE"}'),
        ("POST", f"/api/sessions/{session}/regenerate", '{"message_id": "MESSAGE"}'),
        ("POST", "/api/chat", f'{{"session_id": "{session}", "message": "hi", "parent_id": "MESSAGE"}}'),
        ("POST", "/api/chat", f'{{"session_id": "{session}", "message": [{{"type": "media", "sha256": "FILE"}}]}}'),
        ("GET", f"/api/sessions/{session}/messages?before=MESSAGE", ""),
        ("GET", f"/api/sessions/{session}/messages?branch=MESSAGE", ""),
        ("GET", f"/api/media/FILE?session_id={session}", ""),
        ("GET", "/api/media/FILE", ""),
    ]
    for method, path, body in bodies:
        answers = []
        for named in (none, of_mina):
            answer = await client.request(
                method,
                named.put_into(path),
                content=named.put_into(body).encode(),
                headers={**headers, "Content-Type": "application/json"},
            )
            shown = answer.text.replace(named.message_id, "MESSAGE").replace(named.sha256, "FILE")
            answers.append((answer.status_code, shown))
        assert answers[0] == answers[1], path
        assert 400 <= answers[0][0] < 500


async def test_a_conversation_name_of_another_key_means_nothing(owners: TwoOwners) -> None:
    client = owners.service.client
    body = {"model": "fake-model", "messages": [{"role": "user", "content": "hi"}]}

    async def named_by(secret: str) -> httpx.Response:
        headers = {"X-API-Key": secret, "X-Session-Id": "our-project"}
        return await client.post("/v1/chat/completions", json=body, headers=headers)

    of_mina, of_jun = await named_by(MINA), await named_by(JUN)
    assert of_mina.status_code == of_jun.status_code == 200
    assert of_mina.headers["X-Session-Id"] != of_jun.headers["X-Session-Id"]
