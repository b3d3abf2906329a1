"""Files over HTTP: uploaded, named in messages, read back, and kept from others."""

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 300  # more than one chunk
SHA256 = hashlib.sha256(PNG).hexdigest()
PATH = f"/api/media/{SHA256}"
KEYS = {"CHATBOT_API_KEYS": "ann:a-long-secret-of-hers,bob:another-long-secret"}
ANN, BOB = {"X-API-Key": "a-long-secret-of-hers"}, {"X-API-Key": "another-long-secret"}


def image(data: bytes = PNG, stated: str = "image/png") -> dict[str, Any]:
    url = f"data:{stated};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def media(sha256: str = SHA256, **members: Any) -> dict[str, Any]:
    return {"type": "media", "sha256": sha256, **members}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


async def upload(client: httpx.AsyncClient, data: bytes = PNG, **headers: str) -> httpx.Response:
    named = {"Content-Type": "application/x-whatever", **headers}
    answer = await client.post("/api/media", content=data, headers=named)
    assert answer.status_code == 201, answer.text
    return answer


async def post(client: httpx.AsyncClient, session_id: str, message: Any, **headers: str) -> httpx.Response:
    body = {"session_id": session_id, "message": message}
    return await client.post("/api/chat", json=body, headers=headers)


async def test_an_upload_is_read_back_byte_for_byte(service: Running) -> None:
    answer = await upload(service.client)
    described = answer.json()
    assert {name: described[name] for name in ("sha256", "media_type", "bytes")} == {
        "sha256": SHA256,
        "media_type": "image/png",
        "bytes": len(PNG),
    }
    assert answer.headers["Location"] == PATH
    found = await service.client.get(PATH)
    assert (found.status_code, found.content) == (200, PNG)
    assert found.headers["Content-Type"] == "image/png"
    assert found.headers["Content-Length"] == str(len(PNG))
    assert found.headers["ETag"] == f'"{SHA256}"'
    assert found.headers["Cache-Control"] == "private, no-cache"
    assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert found.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert found.headers["Content-Disposition"] == "inline"
    head = await service.client.head(PATH)
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(PNG)))
    unchanged = await service.client.get(PATH, headers={"If-None-Match": f'W/"x", "{SHA256}"'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        ("bytes=70000-", 70_000, len(PNG)),
        ("bytes=-5", len(PNG) - 5, len(PNG)),
        ("bytes=-999999999", 0, len(PNG)),
        ("bytes=65000-999999999", 65_000, len(PNG)),
        ("bytes=0-1,5-6", 0, len(PNG)),
        ("bytes=9-1", 0, len(PNG)),
        ("bytes=-", 0, len(PNG)),
        ("lines=0-1", 0, len(PNG)),
    ],
)
async def test_one_range_is_served(service: Running, wanted: str, start: int, end: int) -> None:
    await upload(service.client)
    found = await service.client.get(PATH, headers={"Range": wanted})
    assert found.content == PNG[start:end]
    if end - start == len(PNG):
        assert (found.status_code, found.headers.get("Content-Range")) == (200, None)
    else:
        assert (found.status_code, found.headers["Content-Range"]) == (206, f"bytes {start}-{end - 1}/{len(PNG)}")
    other = await service.client.get(PATH, headers={"Range": wanted, "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, PNG)


@pytest.mark.parametrize("wanted", [f"bytes={len(PNG)}-", "bytes=-0", f"bytes={10**17}-"])
async def test_a_range_behind_the_end_is_refused(service: Running, wanted: str) -> None:
    await upload(service.client)
    found = await service.client.get(PATH, headers={"Range": wanted})
    assert (found.status_code, found.json()["size"]) == (416, len(PNG))
    assert found.headers["Content-Range"] == f"bytes */{len(PNG)}"


async def test_a_message_has_text_and_images_and_the_history_shows_them(service: Running) -> None:
    session_id = await service.session()
    await upload(service.client)
    other = PNG + b"x"
    answer = await post(service.client, session_id, [text("What "), media(name="a.png"), image(other), text("is it?")])
    assert answer.status_code == 200, answer.text
    question, reply = (await service.history(session_id))["messages"]
    assert question["content"] == "What is it?"
    first, named, brought, last = question["parts"]
    assert (first, last) == (text("What "), text("is it?"))
    url = f"{PATH}?session_id={session_id}"
    assert named == media(media_type="image/png", bytes=len(PNG), url=url, name="a.png")
    assert (brought["sha256"], brought["bytes"]) == (hashlib.sha256(other).hexdigest(), len(other))
    assert (await service.client.get(named["url"])).content == PNG
    assert (await service.client.get(brought["url"])).content == other
    assert reply["parts"] == [text(reply["content"])] == answer.json()["parts"]
    assert (reply["calls"], answer.json()["calls"]) == (None, None)
    repeated = await post(service.client, session_id, [named, text("And now?")])
    assert repeated.status_code == 200, "a part of the history can be sent as it is"


async def test_a_message_of_one_text_in_a_list_is_recorded_as_a_text(service: Running) -> None:
    session_id = await service.session()
    assert (await post(service.client, session_id, [text("Hello")])).status_code == 200
    rows = await service.services.log.stream_rows(session_id, limit=10)
    (posted,) = (row for row in rows if row.type == "message_posted")
    assert posted.data is not None
    assert '"parts"' not in posted.data
    assert len(posted.salt or b"") == 16


@pytest.mark.parametrize(
    ("part", "status", "path"),
    [
        (media("ab" * 32), 422, "$.message[1].sha256"),
        (media(bytes=1), 422, "$.message[1].bytes"),
        (media(media_type="image/gif"), 422, "$.message[1].media_type"),
        (image(stated="image/gif"), 422, "$.message[1].image_url.url"),
        (image(b"<svg>", "image/svg+xml"), 415, "$.message[1].image_url.url"),
        (image(PNG[:8] + bytes(100_000)), 413, "$.message[1].image_url.url"),
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, 422, "$.message[1].image_url.url"),
    ],
)
async def test_a_file_that_is_not_accepted_is_refused_and_nothing_is_recorded(
    tmp_path: Path, model: ModelServer, part: dict[str, Any], status: int, path: str
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_MEDIA_MAX_BYTES="90000") as service:
        session_id = await service.session()
        await upload(service.client)
        answer = await post(service.client, session_id, [text("Hi"), part])
        assert answer.status_code == status, answer.text
        assert [fault["path"] for fault in answer.json()["errors"]] == [path]
        assert (await service.history(session_id))["messages"] == []
        assert not model.requests


async def test_uploads_are_bounded(tmp_path: Path, model: ModelServer) -> None:
    limits = {"CHATBOT_MEDIA_MAX_BYTES": "90000", "CHATBOT_MEDIA_UNUSED_MAX_BYTES": "100000"}
    async with serving(tmp_path, model.url, **limits) as service:
        client = service.client
        too_large = await client.post("/api/media", content=PNG + bytes(90_000))
        assert (too_large.status_code, too_large.json()["type"]) == (413, "/problems/file-too-large")
        pieces = iter([PNG, bytes(90_000)])

        async def chunked() -> Any:
            for piece in pieces:
                yield piece

        assert (await client.post("/api/media", content=chunked())).status_code == 413
        assert (await client.post("/api/media", content=b"<html>")).json()["type"] == "/problems/file-type"
        assert (await client.post("/api/media", content=b"")).status_code == 415
        await upload(client)
        quota = await client.post("/api/media", content=PNG + b"x")
        assert (quota.status_code, quota.json()["type"]) == (429, "/problems/media-quota")
        assert int(quota.headers["Retry-After"]) >= 60
        session_id = await service.session()
        assert (await post(client, session_id, [media()])).status_code == 200
        await upload(client, PNG + b"x")


async def test_a_client_that_sends_too_slowly_is_refused(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SERVER_BODY_TIMEOUT_S="0.5") as service:
        url = service.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"POST /api/media HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + PNG[:100])
        answer = asyncio.ensure_future(reader.readline())
        while not answer.done():
            writer.write(b"x" * 100)
            await asyncio.sleep(0.05)
        assert answer.result().startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert (await service.client.get(PATH)).status_code == 404


async def test_files_of_others_are_as_if_they_were_not_there(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **KEYS) as service:
        client = service.client
        await upload(client, PNG, **ANN)
        absent = (await client.get(f"/api/media/{'ab' * 32}", headers=BOB)).json()
        hidden = (await client.get(PATH, headers=BOB)).json()
        assert {**absent, "instance": ""} == {**hidden, "instance": ""}
        assert hidden["type"] == "/problems/no-such-file"
        hers = (await client.post("/api/sessions", json={}, headers=ANN)).json()["session_id"]
        his = (await client.post("/api/sessions", json={}, headers=BOB)).json()["session_id"]
        assert (await post(client, his, [media()], **BOB)).status_code == 422
        assert (await post(client, hers, [media()], **ANN)).status_code == 200
        assert (await post(client, his, [media()], **BOB)).status_code == 422
        in_hers = {"session_id": hers}
        assert (await client.get(PATH, params=in_hers, headers=BOB)).status_code == 404
        assert (await client.get(PATH, params={"session_id": his}, headers=BOB)).status_code == 404
        assert (await client.get(PATH, params=in_hers, headers=ANN)).content == PNG
        assert (await client.get(PATH, headers=ANN)).content == PNG
        assert (await client.get(PATH)).status_code == 401
        await upload(client, PNG, **BOB)
        assert (await client.get(PATH, headers=BOB)).content == PNG
        assert (await client.delete(f"/api/sessions/{hers}", headers=ANN)).status_code == 204
        assert (await client.get(PATH, headers=ANN)).status_code == 404
        assert (await client.get(PATH, headers=BOB)).content == PNG


async def test_a_fork_shows_the_files_of_the_messages_that_it_has(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **KEYS) as service:
        client = service.client
        await upload(client, PNG, **ANN)
        origin = (await client.post("/api/sessions", json={}, headers=ANN)).json()["session_id"]
        assert (await post(client, origin, [media()], **ANN)).status_code == 200
        later = PNG + b"later"
        await upload(client, later, **ANN)
        forked = await client.post(f"/api/sessions/{origin}/fork", headers=ANN)
        fork = forked.json()["session_id"]
        assert (await post(client, origin, [media(hashlib.sha256(later).hexdigest())], **ANN)).status_code == 200
        of_fork = {"session_id": fork}
        assert (await client.get(PATH, params=of_fork, headers=ANN)).content == PNG
        later_path = f"/api/media/{hashlib.sha256(later).hexdigest()}"
        assert (await client.get(later_path, params=of_fork, headers=ANN)).status_code == 404
        assert (await client.delete(f"/api/sessions/{origin}", headers=ANN)).status_code in (202, 204)
        for _ in range(100):  # until the fork has its own copies
            if (await client.get(later_path, headers=ANN)).status_code == 404:
                break
        assert (await client.get(PATH, params=of_fork, headers=ANN)).content == PNG


async def test_a_repeated_request_keeps_no_second_file_and_has_the_same_answer(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_MEDIA_UNUSED_MAX_BYTES="100000") as service:
        session_id = await service.session()
        key = {"Idempotency-Key": "once"}
        first = await post(service.client, session_id, [text("Hi"), image()], **key)
        await upload(service.client, PNG + bytes(100))  # no room is left for another one
        again = await post(service.client, session_id, [text("Hi"), image()], **key)
        assert (first.status_code, again.status_code) == (200, 200)
        assert first.json() == again.json()
        other = await post(service.client, session_id, [text("Hi"), media()], **key)
        assert other.json()["type"] == "/problems/key-reused"


async def test_no_file_is_taken_for_a_session_that_is_not_there(service: Running) -> None:
    answer = await post(service.client, "00000000-0000-4000-8000-000000000000", [image()])
    assert answer.status_code == 404
    assert (await service.client.get(PATH)).status_code == 404


async def test_the_address_of_a_file_has_the_prefix_of_a_proxy(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SERVER_PATH_PREFIX="/chat") as service:
        session_id = await service.session()
        assert (await upload(service.client)).headers["Location"] == f"/chat{PATH}"
        await post(service.client, session_id, [media()])
        (part,) = (await service.history(session_id))["messages"][0]["parts"]
        assert part["url"] == f"/chat{PATH}?session_id={session_id}"


async def test_what_is_no_sha256_is_like_a_file_that_is_not_there(service: Running) -> None:
    for name in ("x", "0" * 63, "g" * 64, "A" * 64):
        answer = await service.client.get(f"/api/media/{name}")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/no-such-file")
