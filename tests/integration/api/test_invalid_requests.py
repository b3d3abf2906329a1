"""Bad input gets a precise answer and changes nothing."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.service import Running

NOBODY = "00000000-0000-4000-8000-000000000000"


async def position(service: Running) -> int:
    return service.services.log.head().position


def assert_problem(answer: httpx.Response, status: int, path: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance"} <= set(problem)
    assert problem["status"] == status
    assert answer.headers["X-Request-ID"]
    if path is not None:
        assert [fault["path"] for fault in problem["errors"]] == [path]
    return problem


def names(cases: list[tuple[Any, ...]]) -> list[str]:
    return [case[0] for case in cases]


CHAT_FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("wrong type", {"message": 5}, "$.message"),
    ("empty", {"message": ""}, "$.message"),
    ("blank", {"message": " \n\t "}, "$.message"),
    ("too long", {"message": "x" * 32001}, "$.message"),
    ("NUL", {"message": "a\0b"}, "$.message"),
    ("unknown field", {"message": "x", "max_tokens": 5}, "$.max_tokens"),
    ("no tokens", {"message": "x", "max_new_tokens": 0}, "$.max_new_tokens"),
    ("too many tokens", {"message": "x", "max_new_tokens": 4097}, "$.max_new_tokens"),
    ("half a token", {"message": "x", "max_new_tokens": 1.5}, "$.max_new_tokens"),
    ("too cold", {"message": "x", "temperature": -0.1}, "$.temperature"),
    ("too hot", {"message": "x", "temperature": 2.1}, "$.temperature"),
    ("not a bool", {"message": "x", "do_sample": "yes"}, "$.do_sample"),
    ("top_p", {"message": "x", "top_p": 0}, "$.top_p"),
    ("stop", {"message": "x", "stop": ["a", 1]}, "$.stop[1]"),
    ("on_busy", {"message": "x", "on_busy": "explode"}, "$.on_busy"),
    ("not a UUID", {"message": "x", "session_id": "nope"}, "$.session_id"),
    ("missing", {"message": "x", "session_id": None}, "$.session_id"),
]


@pytest.mark.parametrize(("fault", "path"), [case[1:] for case in CHAT_FAULTS], ids=names(CHAT_FAULTS))
@pytest.mark.parametrize("url", ["/api/chat", "/api/chat/stream"])
async def test_a_bad_chat_names_the_path_of_the_fault(
    service: Running, url: str, fault: dict[str, Any], path: str
) -> None:
    session_id = await service.session()
    before = await position(service)
    answer = await service.client.post(url, json={"session_id": session_id, **fault})
    assert_problem(answer, 422, path)
    assert await position(service) == before


async def test_missing_fields_are_named(service: Running) -> None:
    assert_problem(await service.client.post("/api/chat", json={"message": "x"}), 422, "$.session_id")
    assert_problem(await service.client.post("/api/chat", json={"session_id": NOBODY}), 422, "$.message")
    assert_problem(await service.client.post("/api/chat", json=["x"]), 422, "$")


SESSION_FAULTS: list[tuple[str, Any, str]] = [
    ("metadata no object", {"metadata": [1]}, "$.metadata"),
    ("metadata large", {"metadata": {"a": "x" * 16384}}, "$.metadata"),
    ("metadata keys", {"metadata": {str(n): n for n in range(65)}}, "$.metadata"),
    ("metadata NUL", {"metadata": {"a": ["b\0"]}}, "$.metadata.a[0]"),
    ("title long", {"title": "x" * 201}, "$.title"),
    ("title blank", {"title": "  "}, "$.title"),
    ("timeout below zero", {"timeout_hours": -1}, "$.timeout_hours"),
    ("timeout text", {"timeout_hours": "1"}, "$.timeout_hours"),
    ("unknown", {"name": "x"}, "$.name"),
    ("prompt long", {"system_prompt": "x" * 8001}, "$.system_prompt"),
]


@pytest.mark.parametrize(("body", "path"), [case[1:] for case in SESSION_FAULTS], ids=names(SESSION_FAULTS))
async def test_a_bad_session_names_the_path_of_the_fault(service: Running, body: Any, path: str) -> None:
    assert_problem(await service.client.post("/api/sessions", json=body), 422, path)
    assert await position(service) == 0


def nested(levels: int) -> bytes:
    return b'{"metadata":{"a":' + b"[" * levels + b"]" * levels + b"}}"


RAW_FAULTS: list[tuple[str, bytes, int]] = [
    ("not JSON", b"{message}", 400),
    ("cut JSON", b'{"metadata": {"a": "b', 400),
    ("bad UTF-8", b'{"title": "\xff\xfe"}', 400),
    ("lone surrogate", b'{"title": "a \\ud83d b"}', 400),
    ("deep", nested(100_000), 400),
    ("rather deep", nested(40), 422),
    ("NaN", b'{"metadata": NaN}', 400),
    ("number out of range", b'{"metadata": {"a": 1e999}}', 422),
    ("empty body", b"", 415),
]


@pytest.mark.parametrize(("raw", "status"), [case[1:] for case in RAW_FAULTS], ids=names(RAW_FAULTS))
async def test_bytes_that_are_no_good_body_are_refused(service: Running, raw: bytes, status: int) -> None:
    session_id = await service.session()
    before = await position(service)
    headers = {"Content-Type": "application/json"} if raw else {}
    answer = await service.client.patch(f"/api/sessions/{session_id}", content=raw, headers=headers)
    assert_problem(answer, status)
    assert await position(service) == before


async def test_a_lone_surrogate_is_called_what_it_is(service: Running) -> None:
    answer = await service.client.post(
        "/api/sessions", content=b'{"title": "\\ud83d"}', headers={"Content-Type": "application/json"}
    )
    assert "surrogate" in assert_problem(answer, 400)["detail"]


async def test_another_content_type_is_refused(service: Running) -> None:
    answer = await service.client.post("/api/chat", content=b"session_id=1", headers={"Content-Type": "text/plain"})
    assert_problem(answer, 415)


async def test_a_body_larger_than_allowed_is_refused(service: Running) -> None:
    answer = await service.client.post("/api/sessions", json={"metadata": {"a": "x" * 1_100_000}})
    assert_problem(answer, 413)


@pytest.mark.parametrize("path", ["/api/sessions/{}", "/api/sessions/{}/messages"])
@pytest.mark.parametrize("session_id", [NOBODY, "nope", "..%2F..", "%00", "x" * 500])
async def test_an_unknown_session_answers_as_the_seed_does(service: Running, path: str, session_id: str) -> None:
    problem = assert_problem(await service.client.get(path.format(session_id)), 404)
    if session_id == NOBODY:
        assert problem["detail"] == f"Session {NOBODY} not found"


async def test_chat_in_an_unknown_session_is_not_found(service: Running) -> None:
    for url in ("/api/chat", "/api/chat/stream"):
        answer = await service.client.post(url, json={"session_id": NOBODY, "message": "hi"})
        assert assert_problem(answer, 404)["detail"] == f"Session {NOBODY} not found"


async def test_a_wrong_method_names_those_allowed(service: Running) -> None:
    answer = await service.client.put("/api/chat", json={})
    assert_problem(answer, 405)
    assert answer.headers["Allow"] == "POST"


async def test_a_wrong_path_says_where_to_look(service: Running) -> None:
    assert "/docs" in assert_problem(await service.client.get("/api/nothing"), 404)["detail"]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "query.limit"),
        ("limit=1001", "query.limit"),
        ("limit=ten", "query.limit"),
        ("limit=1e2", "query.limit"),
        ("lmit=5", "query.lmit"),
    ],
)
async def test_bad_queries_name_the_parameter(service: Running, query: str, path: str) -> None:
    session_id = await service.session()
    assert_problem(await service.client.get(f"/api/sessions/{session_id}/messages?{query}"), 422, path)


async def test_bad_list_queries_name_the_parameter(service: Running) -> None:
    for query, path in (
        ("cursor=zzz", "query.cursor"),
        ("status=dead", "query.status"),
        ("user=1", "query.user"),
        ("order=age", "query.order"),
    ):
        assert_problem(await service.client.get(f"/api/sessions?{query}"), 422, path)


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        ("/api/sessions", "limit=1&limit=2", "query.limit"),
        ("/api/sessions", "metadata.user=a&status=active&metadata.user=b", "query.metadata.user"),
        ("/api/sessions/{}/messages", "limit=5&limit=5", "query.limit"),
        ("/api/sessions/{}/stream", "after=0&after=1", "query.after"),
        ("/api/sessions/{}/export", "format=json&format=markdown", "query.format"),
        ("/api/usage", "from=2026-02-30", "query.from"),
        ("/api/usage", "to=2025-02-29", "query.to"),
        ("/api/usage", "to=2026-13-01", "query.to"),
        ("/api/usage", "from=0000-01-01", "query.from"),
        ("/api/sessions/{}/export", "as_of=2026-02-30", "query.as_of"),
    ],
)
async def test_a_repeated_parameter_and_an_impossible_day_are_refused(
    service: Running, path: str, query: str, named: str
) -> None:
    session_id = await service.session()
    assert_problem(await service.client.get(f"{path.format(session_id)}?{query}"), 422, named)


async def test_a_byte_order_mark_before_a_body_is_skipped(service: Running) -> None:
    headers = {"Content-Type": "application/json"}
    made = await service.client.post("/api/sessions", content=b'\xef\xbb\xbf{"title": "T"}', headers=headers)
    assert (made.status_code, made.json()["title"]) == (201, "T")
    nothing = await service.client.post("/api/sessions", content=b"\xef\xbb\xbf", headers=headers)
    assert nothing.status_code == 201
    twice = await service.client.post("/api/sessions", content=b"\xef\xbb\xbf" * 2 + b"{}", headers=headers)
    assert_problem(twice, 400)


async def test_history_before_or_of_an_unknown_message_is_refused(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "hi")
    for query in ("before=nope", "branch=nope"):
        assert_problem(await service.client.get(f"/api/sessions/{session_id}/messages?{query}"), 422)


async def test_a_bad_if_match_is_refused(service: Running) -> None:
    session_id = await service.session()
    answer = await service.client.delete(f"/api/sessions/{session_id}", headers={"If-Match": "latest"})
    assert_problem(answer, 400, "header.If-Match")


async def test_a_body_that_stops_halfway_changes_nothing_and_is_let_go(service: Running) -> None:
    url = urlsplit(str(service.client.base_url))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(
        b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n{"
    )
    await writer.drain()
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    assert await position(service) == 0
    assert await service.session()


async def test_request_ids_are_taken_when_sane_and_made_otherwise(service: Running) -> None:
    taken = await service.client.get("/livez", headers={"X-Request-ID": "abc-123"})
    assert taken.headers["X-Request-ID"] == "abc-123"
    for given in ("x" * 65, "a b"):
        made = await service.client.get("/livez", headers={"X-Request-ID": given})
        assert made.headers["X-Request-ID"] not in ("", given)
