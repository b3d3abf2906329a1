"""What becomes of stored responses: deleted while others need their input, failed, cut off, and fed back."""

import asyncio
import base64
import uuid
from typing import Any

import pytest

from tests.integration.v1.test_named_conversations import PNG
from tests.integration.v1.test_responses import MODEL, respond
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

ATTEMPTS = 3  # of one call to the model server, at most


async def items_of(service: Running, path: str) -> list[dict[str, Any]]:
    answer = await service.client.get(f"/v1/{path}", params={"order": "asc"})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def asked(model: ModelServer) -> list[str]:
    return [message["content"] for message in model.requests[-1].body["messages"]]


def fail(model: ModelServer) -> None:
    for _ in range(ATTEMPTS):
        model.script(status=500)


def response_of(session: str, item: dict[str, Any]) -> str:
    """The id that the item's message has as a response."""
    return f"resp_{session}{item['id'].split('_')[1]}"


async def test_input_from_which_another_branch_goes_on_outlives_its_response(
    service: Running, model: ModelServer
) -> None:
    sent = [{"role": role, "content": text} for role, text in (("user", "U1"), ("assistant", "A1"), ("user", "U2"))]
    first = await respond(service, sent)
    session = first["id"][5:37]
    _, answer, _ = await items_of(service, f"responses/{first['id']}/input_items")
    other = await respond(service, "U3", previous_response_id=response_of(session, answer))
    assert (await service.client.delete(f"/v1/responses/{first['id']}")).status_code == 200
    await respond(service, "U4", previous_response_id=other["id"])
    assert asked(model) == ["U1", "A1", "U3", "You said: U3", "U4"]
    export = (await service.client.get(f"/api/sessions/{other['id'][5:37]}/events?limit=100")).text
    assert "U2" not in export


async def test_a_failed_response_is_not_repeated_and_is_found(service: Running, model: ModelServer) -> None:
    fail(model)
    failed = await service.client.post("/v1/responses", json={"model": MODEL, "input": "Fail."})
    assert (failed.status_code, failed.headers["X-Should-Retry"]) == (502, "false")
    found = (await service.client.get(failed.headers["Content-Location"])).json()
    assert (found["status"], found["error"]["code"], found["output"]) == ("failed", "server_error", [])
    assert found["id"] in failed.json()["error"]["message"]
    again = await respond(service, "Again.", previous_response_id=found["id"])
    assert again["status"] == "completed"


async def test_a_cancelled_response_is_found_by_the_request_that_waits(service: Running, model: ModelServer) -> None:
    model.script(pieces=("one ", "two "), then="silence")
    made = (await service.client.post("/v1/conversations")).json()["id"]
    body = {"model": MODEL, "input": "Go.", "conversation": made}
    waiting = asyncio.ensure_future(service.client.post("/v1/responses", json=body))
    replies = service.services.supervisor.replies
    session_id = str(uuid.UUID(made[5:]))
    while not (running := list(replies(session_id).values())) or not running[0].length:
        await asyncio.sleep(0.01)
    url = f"/v1/responses/resp_{made[5:]}{running[0].reply_id.replace('-', '')}"
    cancelled = (await service.client.post(f"{url}/cancel")).json()
    answer = await waiting
    assert (answer.status_code, answer.headers["X-Should-Retry"]) == (409, "false")
    assert answer.headers["Content-Location"] == url
    assert (await service.client.get(url)).json() == cancelled


async def test_a_failed_response_that_is_not_stored_may_be_repeated(service: Running, model: ModelServer) -> None:
    fail(model)
    failed = await service.client.post("/v1/responses", json={"model": MODEL, "input": "Fail.", "store": False})
    assert (failed.status_code, failed.headers["X-Should-Retry"]) == (502, "true")
    assert "Content-Location" not in failed.headers


async def test_items_have_the_same_status_in_a_response_and_in_its_conversation(
    service: Running, model: ModelServer
) -> None:
    model.script(pieces=("one ", "two "), finish_reason="length")
    incomplete = await respond(service, "Be cut off.")
    model.script(pieces=("one ", "two "), then="silence")
    created = await respond(service, "Go.", background=True)
    async with service.client.stream("GET", f"/v1/responses/{created['id']}?stream=true") as reader:
        async for line in reader.aiter_lines():
            if '"delta"' in line:
                break
    cancelled = (await service.client.post(f"/v1/responses/{created['id']}/cancel")).json()
    for response in (incomplete, cancelled):
        *_, item = await items_of(service, f"conversations/conv_{response['id'][5:37]}/items")
        assert item["status"] == "incomplete"
        assert [item] == response["output"]


async def test_only_after_a_reply_a_response_goes_on(service: Running) -> None:
    response = await respond(service)
    (item,) = await items_of(service, f"responses/{response['id']}/input_items")
    session = response["id"][5:37]
    for no_reply in (response_of(session, item), f"resp_{session}{'0' * 32}"):
        assert (await service.client.get(f"/v1/responses/{no_reply}")).status_code == 404
        body = {"model": MODEL, "input": "Hi", "previous_response_id": no_reply}
        for path, fields in (("", {}), ("", {"store": False}), ("/input_tokens", {})):
            answer = await service.client.post(f"/v1/responses{path}", json={**body, **fields})
            assert answer.status_code == 404, answer.text


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_walk_goes_on_after_an_item_that_was_redacted_meanwhile(service: Running, order: str) -> None:
    items = [{"type": "message", "role": "user", "content": f"Number {n}."} for n in range(4)]
    made = (await service.client.post("/v1/conversations", json={"items": items})).json()
    url = f"/v1/conversations/{made['id']}/items"
    first = (await service.client.get(url, params={"order": order, "limit": "2"})).json()
    assert (await service.client.delete(f"{url}/{first['last_id']}")).status_code == 200
    rest = await service.client.get(url, params={"order": order, "after": first["last_id"]})
    texts = [item["content"][0]["text"] for item in rest.json()["data"]]
    assert texts == (["Number 2.", "Number 3."] if order == "asc" else ["Number 1.", "Number 0."])
    unknown = await service.client.get(url, params={"after": f"msg_{'0' * 32}_0"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "query.after")


async def test_items_with_images_are_accepted_as_they_are_shown(service: Running, model: ModelServer) -> None:
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}
    text = {"type": "input_text", "text": "What is this?"}
    response = await respond(service, [{"role": "user", "content": [text, picture]}])
    shown = await items_of(service, f"responses/{response['id']}/input_items")
    assert "/api/media/" in shown[0]["content"][1]["image_url"]
    await respond(service, [*shown, *response["output"], {"role": "user", "content": "And now?"}])
    first, sent = model.requests[-2].body["messages"], model.requests[-1].body["messages"]
    assert sent[0] == first[0]
    unknown = {"type": "input_image", "image_url": f"/api/media/{'0' * 64}"}
    for url in (unknown["image_url"], "https://example.org/a.png"):
        content = [text, {"type": "input_image", "image_url": url}]
        body = {"model": MODEL, "input": [{"role": "user", "content": content}]}
        refused = await service.client.post("/v1/responses", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input[0].content[1]"), url
