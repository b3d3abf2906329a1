"""Responses and conversations of one end user of a front end do not exist for another one."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving
from tests.unit.v1.test_end_users import token

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRONT, SIGNING = "front-end-secret-1", "signing-secret-of-16"
KEYS = {"CHATBOT_API_KEYS": f"front:{FRONT}", "CHATBOT_AUTH_FRONT_ENDS": "front"}
UNKNOWN = "0" * 32
MODEL = "fake-model"
ITEM = {"role": "user", "content": "An item."}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(tmp_path_factory.mktemp("service"), model.url, **KEYS) as running:
        running.client.headers["Authorization"] = f"Bearer {FRONT}"
        yield running


def named(user: str | None) -> dict[str, str]:
    return {} if user is None else {"X-OpenWebUI-User-Id": user}


async def send(service: Running, call: str, user: str | None, body: Any = None, **headers: str) -> httpx.Response:
    method, url = call.split(" ")
    return await service.client.request(method, f"/v1/{url}", json=body, headers={**named(user), **headers})


async def made(service: Running, call: str, user: str | None, body: Any, **headers: str) -> dict[str, Any]:
    answer = await send(service, call, user, body, **headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def respond(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": "Hi", **fields}


def calls_of(conversation: str, response: str, item: str) -> list[tuple[str, Any]]:
    """Every call that takes an id, the ones that delete last."""
    after = {"previous_response_id": response}
    return [
        (f"GET responses/{response}", None),
        (f"GET responses/{response}?stream=true", None),
        (f"GET responses/{response}/input_items", None),
        (f"POST responses/{response}/cancel", None),
        ("POST responses", respond(**after)),
        ("POST responses", respond(**after, stream=True)),
        ("POST responses", respond(**after, store=False)),
        ("POST responses", respond(conversation=conversation)),
        ("POST responses/input_tokens", respond(**after)),
        ("POST responses/input_tokens", respond(conversation=conversation)),
        (f"GET conversations/{conversation}", None),
        (f"POST conversations/{conversation}", {"metadata": {"user_id": "u2"}}),
        (f"GET conversations/{conversation}/items", None),
        (f"POST conversations/{conversation}/items", {"items": [ITEM]}),
        (f"GET conversations/{conversation}/items/{item}", None),
        (f"DELETE conversations/{conversation}/items/{item}", None),
        (f"DELETE responses/{response}", None),
        (f"DELETE conversations/{conversation}", None),
    ]


def uuid_of(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


async def test_no_call_reaches_what_another_user_has_made(service: Running) -> None:
    conversation = await made(service, "POST conversations", "u1", {"items": [ITEM]})
    response = await made(service, "POST responses", "u1", respond(conversation=conversation["id"]))
    listed = await made(service, f"GET conversations/{conversation['id']}/items?order=asc", "u1", None)
    session, item = conversation["id"][5:], listed["first_id"]
    theirs = calls_of(conversation["id"], response["id"], item)
    unknown = calls_of(f"conv_{UNKNOWN}", f"resp_{UNKNOWN}{response['id'][37:]}", item)
    for (call, body), (other_call, other_body) in zip(theirs, unknown, strict=True):
        refused, absent = await send(service, call, "u2", body), await send(service, other_call, "u2", other_body)
        assert refused.status_code == absent.status_code == 404, f"{call} {body}: {refused.text}"
        assert refused.text.replace(uuid_of(session), uuid_of(UNKNOWN)) == absent.text
    for call, body in theirs:
        answer = await send(service, call, "u1", body)
        assert answer.status_code == 200, f"{call} {body}: {answer.text}"


async def test_a_conversation_without_items_is_its_user_s_and_stays_so(service: Running) -> None:
    key = {"Idempotency-Key": "one-conversation"}
    first, again, other = [
        await made(service, "POST conversations", user, {"metadata": {"user_id": "u9"}}, **key)
        for user in ("u1", "u1", "u2")
    ]
    assert first["id"] == again["id"] != other["id"]
    call = f"GET conversations/{first['id']}"
    assert (await send(service, call, "u2")).status_code == 404
    await made(service, f"POST conversations/{first['id']}", "u1", {"metadata": {"user_id": "u2", "topic": "t"}})
    assert (await send(service, call, "u2")).status_code == 404
    found = await made(service, call, "u1", None)
    assert found["metadata"] == {"user_id": "u1", "topic": "t"}
    assert (await send(service, call, None)).status_code == 200, "without a user the front end asks for itself"


@pytest.mark.parametrize("field", ["user", "safety_identifier"])
async def test_the_user_of_the_body_is_kept_apart_too(service: Running, field: str) -> None:
    first = await made(service, "POST responses", None, respond(**{field: "u1"}))
    assert (await send(service, f"GET responses/{first['id']}", "u2")).status_code == 404
    for stored in (True, False):
        body = respond(previous_response_id=first["id"], store=stored)
        assert (await send(service, "POST responses", None, {**body, field: "u2"})).status_code == 404
        assert (await send(service, "POST responses", None, {**body, field: "u1"})).status_code == 200


async def test_signed_users_are_kept_apart(tmp_path_factory: pytest.TempPathFactory, model: ModelServer) -> None:
    folder = tmp_path_factory.mktemp("signed")
    async with serving(folder, model.url, CHATBOT_V1_USER_JWT_SECRET=SIGNING, **KEYS) as service:
        service.client.headers["Authorization"] = f"Bearer {FRONT}"
        exp = service.services.clock() / 1_000_000 + 300
        mine, other = [{"X-OpenWebUI-User-Jwt": token(SIGNING, exp=exp, sub=user)} for user in ("u1", "u2")]
        response = await made(service, "POST responses", None, respond(), **mine)
        call = f"GET responses/{response['id']}"
        assert (await send(service, call, None, **mine)).status_code == 200
        assert (await send(service, call, None, **other)).status_code == 404
