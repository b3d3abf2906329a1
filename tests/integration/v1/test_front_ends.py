"""End users: believed from front ends and signed tokens, kept apart, and found again."""

from pathlib import Path

import pytest

from tests.support.http.completion_requests import complete, error_of
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving
from tests.unit.v1.test_end_users import token

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRONT, PHONE = "front-end-secret-1", "phone-secret-of-16"
KEYS = {"CHATBOT_API_KEYS": f"front:{FRONT},phone:{PHONE}", "CHATBOT_AUTH_FRONT_ENDS": "front"}
SIGNING = "signing-secret-of-16"


async def session_of(service: Running, key: str, **headers: str) -> str:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await complete(service, headers={"Authorization": f"Bearer {key}", "X-Session-Id": "chat", **given})
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-session-id"])


async def user_of(service: Running, key: str, session_id: str) -> object:
    answer = await service.client.get(f"/api/sessions/{session_id}", headers={"Authorization": f"Bearer {key}"})
    return answer.json()["metadata"].get("user_id")


async def test_two_users_of_a_front_end_have_conversations_of_their_own(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **KEYS) as service:
        first = await session_of(service, FRONT, X_OpenWebUI_User_Id="u1")
        second = await session_of(service, FRONT, X_OpenWebUI_User_Id="u2")
        assert first != second
        assert first == await session_of(service, FRONT, X_OpenWebUI_User_Id="u1")
        assert await user_of(service, FRONT, first) == "u1"
        query = {"metadata.user_id": "u2"}
        listed = await service.client.get("/api/sessions", params=query, headers={"Authorization": f"Bearer {FRONT}"})
        assert [one["session_id"] for one in listed.json()["sessions"]] == [second]


async def test_a_user_of_a_front_end_finds_no_session_of_another_by_its_id(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **KEYS) as service:
        session_id = await session_of(service, FRONT, X_OpenWebUI_User_Id="u1")
        named = {"Authorization": f"Bearer {FRONT}", "X-Session-Id": session_id}
        other = await complete(service, headers={**named, "X-OpenWebUI-User-Id": "u2"}, text="What did u1 say?")
        assert error_of(other, 404)["message"] == f"Session {session_id} not found"
        for user in ({"X-OpenWebUI-User-Id": "u1"}, {}):  # without a user the front end asks for itself
            same = await complete(service, headers={**named, **user}, text="Go on")
            assert (same.status_code, same.headers["x-session-id"]) == (200, session_id)
        free = (await service.client.post("/api/sessions", headers=named)).json()["session_id"]
        taken = {**named, "X-Session-Id": free, "X-OpenWebUI-User-Id": "u2"}
        assert (await complete(service, headers=taken)).status_code == 200, "a session of no user"


async def test_an_idempotency_key_of_one_user_is_none_of_another(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **KEYS) as service:
        once = {"Authorization": f"Bearer {FRONT}", "Idempotency-Key": "k1"}
        first, again, other = [
            await complete(service, headers={**once, "X-OpenWebUI-User-Id": user}) for user in ("u1", "u1", "u2")
        ]
        assert first.json()["id"] == again.json()["id"] != other.json()["id"]
        assert first.headers["x-session-id"] != other.headers["x-session-id"]


async def test_another_key_is_not_believed(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **KEYS) as service:
        first = await session_of(service, PHONE, X_OpenWebUI_User_Id="u1")
        assert first == await session_of(service, PHONE, X_OpenWebUI_User_Id="u2")
        assert await user_of(service, PHONE, first) is None


async def test_a_signed_token_is_believed_and_a_false_one_refused(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_V1_USER_JWT_SECRET=SIGNING, **KEYS) as service:
        now_s = service.services.clock() / 1_000_000
        good = token(SIGNING, exp=now_s + 300)
        session_id = await session_of(service, PHONE, X_OpenWebUI_User_Jwt=good)
        assert await user_of(service, PHONE, session_id) == "u1"
        plain = await session_of(service, FRONT, X_OpenWebUI_User_Id="u9")
        assert await user_of(service, FRONT, plain) is None, "with a secret only signed users count"
        headers = {"Authorization": f"Bearer {FRONT}", "X-OpenWebUI-User-Jwt": token("another-secret-of-16")}
        error = error_of(await complete(service, headers=headers), 400)
        assert error["param"] == "header.X-OpenWebUI-User-Jwt"
