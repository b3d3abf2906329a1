"""Trails over real sockets: everything that was recorded, provable from the answer alone, appending nothing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatbot.api.request_limits import LOG_DEFAULT, LOG_MAX, TRAIL_DEFAULT, TRAIL_MAX
from chatbot.api.streaming.response_stream import STREAMS
from chatbot.audit import event_view
from events.errors import LogUnavailable
from events.record import StoredRow
from tests.support.http.feed_reader import FeedReader
from tests.support.log.independent_chain_check import check_chain, commitment_of
from tests.support.model.model_server import ModelServer
from tests.support.service import Program, Running, program, serving

NDJSON = {"Accept": "application/x-ndjson"}
SSE = {"Accept": "text/event-stream"}
KEYS = "mina:key-of-mina-0123456789,jun:key-of-jun-0123456789,eve:key-of-eve-0123456789"
ODD = 'a "quoted" \\ 안녕 \u2028 {"data": null}'


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer key-of-{name}-0123456789"}


async def lines_of(client: httpx.AsyncClient, path: str, **query: Any) -> list[str]:
    answer = await client.get(path, params=query, headers=NDJSON)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return answer.text.split("\n")[:-1]


async def test_every_event_says_who_asked_and_can_be_proven_from_the_answer_alone(service: Running) -> None:
    session_id = await service.session(title=ODD, metadata={"a": [1, 1.0, "é"]})
    await service.client.post(
        "/api/chat", json={"session_id": session_id, "message": ODD}, headers={"X-Request-ID": "req-7"}
    )
    lines = await lines_of(service.client, "/api/events")
    head = (await service.client.get("/api/audit/head")).json()
    assert check_chain(lines) == head["digest"]
    events = [json.loads(line) for line in lines]
    assert [event["position"] for event in events] == list(range(1, head["position"] + 1))
    assert [event["type"] for event in events] == [event["data"]["type"] for event in events]
    posted = next(event for event in events if event["type"] == "message_posted")
    assert (posted["request_id"], posted["actor"], posted["cause"]) == ("req-7", None, None)
    assert posted["data"]["content"] == ODD
    assert json.loads(posted["metadata"]) == {"request_id": "req-7"}
    started = next(event["data"] for event in events if event["type"] == "reply_started")
    assert started.keys() >= {"model", "parameters", "context_ids"}, "the request can be built again"


async def test_a_trail_is_the_sessions_part_of_the_log_page_by_page(service: Running) -> None:
    first, second = await service.session(), await service.session()
    for session_id in (first, second, first):
        await service.chat(session_id, "hi")
    whole = await lines_of(service.client, "/api/events")
    for session_id in (first, second):
        own = [line for line in whole if json.loads(line)["session_id"] == session_id]
        path = f"/api/sessions/{session_id}/events"
        assert await lines_of(service.client, path) == own
        assert await lines_of(service.client, path, after=2, limit=3) == own[2:5]
        page = (await service.client.get(path, params={"limit": 3})).json()
        assert (page["session_id"], page["next"], len(page["events"])) == (session_id, 3, 3)
        rest = (await service.client.get(path, params={"after": page["next"]})).json()
        assert page["events"] + rest["events"] == [json.loads(line) for line in own]
        assert "next" not in rest
        end = (await service.client.get(path, params={"after": len(own)})).json()
        assert end == {"session_id": session_id, "events": []}


async def test_reading_the_record_appends_nothing_and_is_no_access(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SESSIONS_ACCESS_RESOLUTION_S="0") as service:
        session_id = await service.session()
        await service.chat(session_id, "hi")
        head = service.services.log.head()
        for path in ("events", "export", "export?as_of=1&format=markdown"):
            assert (await service.client.get(f"/api/sessions/{session_id}/{path}")).status_code == 200
        for path in ("/api/events", "/api/audit/head", "/api/audit/verify"):
            assert (await service.client.get(path)).status_code == 200
        assert service.services.log.head() == head
        await service.history(session_id)
        assert service.services.log.head() != head, "unlike reading the messages"


async def test_of_a_deleted_session_the_envelopes_are_left_and_the_chain_still_holds(service: Running) -> None:
    gone, kept = await service.session(title="secret"), await service.session()
    await service.chat(gone, "a secret")
    await service.chat(kept, "stays")
    before = await lines_of(service.client, "/api/events")
    await service.client.delete(f"/api/sessions/{gone}")
    lines = await lines_of(service.client, "/api/events")
    assert "secret" not in "".join(lines)
    check_chain(lines)
    left = (await service.client.get(f"/api/sessions/{gone}/events")).json()["events"]
    assert left[-1]["type"] == "session_deleted"
    assert [(one["data"], one["salt"]) for one in left[:-1]] == [(None, None)] * (len(left) - 1)
    same = ("position", "type", "recorded_at", "actor", "request_id", "commitment", "digest")
    earlier = [json.loads(line) for line in before if json.loads(line)["session_id"] == gone]
    assert [[one[name] for name in same] for one in left[:-1]] == [[one[name] for name in same] for one in earlier]
    assert [line for line in lines if commitment_of(line)] != []


async def test_an_expired_session_has_a_trail(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session(timeout_hours=3 / 3600)
        await service.chat(session_id, "hi")
        async with asyncio.timeout(10):
            while (await service.client.get(f"/api/sessions/{session_id}/messages")).status_code == 200:
                await asyncio.sleep(0.3)
        event_view = (await service.client.get(f"/api/sessions/{session_id}/events")).json()["events"]
        assert event_view[-1]["type"] == "session_expired"
        assert [one["data"]["content"] for one in event_view if one["type"] == "message_posted"] == ["hi"]


async def test_an_owner_reads_own_trails_an_auditor_all_and_nobody_else_any(tmp_path: Path, model: ModelServer) -> None:
    settings = {"CHATBOT_API_KEYS": KEYS, "CHATBOT_AUTH_AUDITORS": "eve"}
    async with serving(tmp_path, model.url, **settings) as service:
        created = await service.client.post("/api/sessions", headers=key("mina"))
        path = f"/api/sessions/{created.json()['session_id']}"
        statuses = {
            name: (await service.client.get(f"{path}/events", headers=key(name))).status_code
            for name in ("mina", "jun", "eve")
        }
        assert statuses == {"mina": 200, "jun": 404, "eve": 200}
        for call in ("/api/events", "/api/audit/head", "/api/audit/verify"):
            assert (await service.client.get(call, headers=key("eve"))).status_code == 200
            for headers in (key("mina"), {**key("jun"), **SSE}):
                refused = await service.client.get(call, headers=headers)
                assert (refused.status_code, refused.json()["type"]) == (403, "/problems/forbidden")
            assert (await service.client.get(call)).status_code == 401
        for call in ("", "/messages", "/stream"):
            answer = await service.client.get(f"{path}{call}", headers=key("eve"))
            assert answer.status_code == 404, "an auditor is no owner"
        assert (await service.client.delete(path, headers=key("eve"))).status_code == 404
        statuses = {
            name: (await service.client.get(f"{path}/export", headers=key(name))).status_code
            for name in ("mina", "jun", "eve")
        }
        assert statuses == {"mina": 200, "jun": 404, "eve": 200}
        (event,) = (await service.client.get(f"{path}/events", headers=key("eve"))).json()["events"]
        assert event["actor"] == "mina"
        await service.client.delete(path, headers=key("mina"))
        assert (await service.client.get(f"{path}/events", headers=key("mina"))).status_code == 200
        assert (await service.client.get(f"{path}/events", headers=key("jun"))).status_code == 404
        gone = await service.client.get(f"{path}/export", headers=key("eve"))
        assert (gone.status_code, gone.json()["type"]) == (404, "/problems/session-deleted")


async def test_with_keys_and_no_auditor_nobody_reads_the_whole_log(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS=KEYS) as service:
        assert (await service.client.get("/api/events", headers=key("mina"))).status_code == 403


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("after=-1", "query.after"),
        ("after=x", "query.after"),
        ("after=1000", "query.after"),
        ("limit=0", "query.limit"),
        ("limit=10001", "query.limit"),
        ("before=1", "query.before"),
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused(service: Running, query: str, path: str) -> None:
    session_id = await service.session()
    for call in ("/api/events", f"/api/sessions/{session_id}/events"):
        refused = await service.client.get(f"{call}?{query}")
        assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, path), call
    refused = await service.client.get("/api/events?after=0", headers={**SSE, "Last-Event-ID": "1000"})
    assert refused.json()["detail"] == "header.Last-Event-ID: the log ends at position 1"


async def test_no_such_session_has_no_trail(service: Running) -> None:
    for session_id in ("nonsense", "6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14"):
        assert (await service.client.get(f"/api/sessions/{session_id}/events")).status_code == 404


async def test_a_long_answer_is_read_a_page_at_a_time(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_view, "PAGE_ROWS", 3)
    read, log = [], service.services.log
    rows = log.rows

    async def counted(*, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        if limit > 1:  # the projections read single rows
            read.append(limit)
        return await rows(after=after, limit=limit, bytes_max=bytes_max)

    monkeypatch.setattr(log, "rows", counted)
    for _ in range(5):
        await service.session(metadata={"long": "x" * 5000})
    assert len(await lines_of(service.client, "/api/events", limit=5)) == 5
    assert read == [3, 2]
    read.clear()
    assert len(await lines_of(service.client, "/api/events")) == 5
    assert set(read) == {3}


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_of_a_log_that_nobody_takes_no_more_is_read(
    service: Running, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    """Each page is a megabyte, and the log has thousands: a reader that takes nothing costs what sockets hold."""
    read: list[int] = []
    real = service.services.log.rows

    async def rows(*, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        if limit == 1:  # the projections read single rows
            return await real(after=after, limit=limit)
        read.append(after)
        return [stored(position=after + 1, data=f'"{"x" * 1_000_000}"')]

    monkeypatch.setattr(service.services.log, "rows", rows)
    url = service.client.base_url
    _, writer = await asyncio.open_connection(url.host, url.port, limit=1000)
    writer.write(f"GET /api/events?limit=10000 HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode())
    taken = -1
    async with asyncio.timeout(20):
        while len(read) != taken:
            taken = len(read)
            await asyncio.sleep(1.0)  # several times the longest rest between two pages
    assert 0 < taken < 30
    writer.transport.abort()
    async with asyncio.timeout(5):
        while service.app[STREAMS].limit._open:
            await asyncio.sleep(0.01)


async def test_an_answer_that_cannot_be_finished_does_not_look_whole(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_view, "PAGE_ROWS", 2)
    log, session_id = service.services.log, await service.session()
    for number in range(4):
        await service.client.patch(f"/api/sessions/{session_id}", json={"title": str(number)})
    rows, stream_rows = log.rows, log.stream_rows

    async def failing(after: int, page: list[StoredRow]) -> list[StoredRow]:
        if after >= 2:
            raise LogUnavailable("the disk is gone")
        return page

    async def all_rows(*, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        return await failing(after, await rows(after=after, limit=limit))

    async def own_rows(session_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        return await failing(after, await stream_rows(session_id, after=after, limit=limit))

    monkeypatch.setattr(log, "rows", all_rows)
    monkeypatch.setattr(log, "stream_rows", own_rows)
    for call in ("/api/events", f"/api/sessions/{session_id}/events"):
        with pytest.raises(httpx.TransportError):
            await service.client.get(call)
        refused = await service.client.get(call, params={"after": 2})
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/log-unavailable")
    assert service.app[STREAMS].limit._open == 0


def stored(**columns: Any) -> StoredRow:
    given = {"position": 1, "stream_id": "s", "version": 1, "type": "message_posted", "schema_version": 1}
    given |= {"recorded_at_us": 0, "metadata": "{}", "data": "{}", "salt": b"", "commitment": b"", "digest": b""}
    return StoredRow(**{**given, **columns})


@pytest.mark.parametrize("data", ['{"a":1}\n{"forged":1}', "{", "", "no json", ' {"a":1}', '{"a":\r1}', "\udcff"])
def test_a_text_that_no_log_writes_is_shown_in_quotes_and_makes_no_line_of_its_own(data: str) -> None:
    line = event_view.encode_row(stored(data=data))
    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line)["data"] == data.encode(errors="replace").decode()


@pytest.mark.parametrize("data", ['{"a":1e400,"a":1.0}', '{"a": "\\u00e9"}', "null", "[]"])
def test_a_text_that_is_a_line_of_json_is_sent_as_it_is(data: str) -> None:
    assert f'"data":{data},"metadata"'.encode() in event_view.encode_row(stored(data=data))


def test_damaged_columns_are_shown_as_well_as_they_can_be() -> None:
    event = json.loads(
        event_view.encode_row(stored(metadata="no json\udcff", recorded_at_us=10**18, stream_id="\udcff"))
    )
    assert (event["metadata"], event["recorded_at"], event["session_id"]) == ("no json?", str(10**18), "?")
    assert (event["actor"], event["request_id"], event["cause"]) == (None, None, None)


# following


def positions(frames: list[dict[str, Any]]) -> list[int]:
    assert [frame["cursor"] for frame in frames] == [str(frame["position"]) for frame in frames]
    return [frame["position"] for frame in frames]


async def take(feed: FeedReader, count: int) -> list[dict[str, Any]]:
    return [await feed.next() for _ in range(count)]


async def test_who_follows_the_log_hears_what_was_recorded_and_then_each_event_as_it_comes(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "hi")
    end = service.services.log.head().position
    async with service.client.stream("GET", "/api/events", headers=SSE) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        feed = FeedReader(answer)
        past = await take(feed, end)
        assert past[0]["retry"] == "1000"
        await service.chat(session_id, "again")
        now = await take(feed, service.services.log.head().position - end)
    assert positions(past + now) == list(range(1, service.services.log.head().position + 1))
    lines = [json.loads(line) for line in await lines_of(service.client, "/api/events")]
    assert [{name: frame[name] for name in line} for frame, line in zip(past + now, lines, strict=True)] == lines


async def test_last_event_id_goes_before_after_and_both_begin_behind_it(service: Running) -> None:
    for _ in range(4):
        await service.session()
    for headers, after, first in (({}, 2, 3), ({"Last-Event-ID": "3"}, 1, 4), ({"Last-Event-ID": ""}, 1, 2)):
        params = {"after": after}
        async with service.client.stream("GET", "/api/events", params=params, headers={**SSE, **headers}) as answer:
            assert (await FeedReader(answer).next())["position"] == first


async def test_a_silent_log_is_pinged(pinging_service: Running) -> None:
    async with pinging_service.client.stream("GET", "/api/events", headers=SSE) as answer:
        async with asyncio.timeout(5):
            assert await anext(answer.aiter_text()) == ": ping\n\n"


async def follow_until_draining(service: Program, after: int, seen: list[int]) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        headers = {**SSE, "Last-Event-ID": str(after)}
        async with client.stream("GET", "/api/events", headers=headers) as answer:
            feed = FeedReader(answer)
            while (frame := await feed.next())["type"] not in ("draining", "end"):
                seen += positions([frame])
            assert (frame["type"], frame["retry"]) == ("draining", "1000")
            assert positions([frame]) == [max([after, *seen])]
            assert (await feed.next())["type"] == "end"


async def test_a_follower_misses_and_repeats_nothing_across_a_restart(tmp_path: Path, model: ModelServer) -> None:
    seen: list[int] = []
    for _ in range(3):
        async with program(tmp_path, model.url) as service:
            following = asyncio.create_task(follow_until_draining(service, max([0, *seen]), seen))
            async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
                made = await asyncio.gather(*(client.post("/api/sessions") for _ in range(20)))
                assert {answer.status_code for answer in made} == {201}
            await service.stop()
            await following
    assert seen == list(range(1, 61))


async def test_a_follower_that_leaves_is_forgotten(service: Running) -> None:
    async with service.client.stream("GET", "/api/events", headers=SSE):
        assert service.services.feeds.count == 1
    async with asyncio.timeout(5):
        while service.services.feeds.count:
            await asyncio.sleep(0.01)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "log-follower"]


async def test_where_too_many_streams_are_open_an_event_source_is_asked_to_come_back(
    tmp_path: Path, model: ModelServer
) -> None:
    async with (
        serving(tmp_path, model.url, CHATBOT_STREAM_READERS_MAX="1") as service,
        service.client.stream("GET", "/api/events", headers=SSE),
    ):
        again = await service.client.get("/api/events", headers=SSE)
        assert (again.status_code, again.text.split("\n")[0]) == (200, "retry: 1000")
        assert (await service.client.get("/api/events")).status_code == 503


def test_the_bounds_are_the_documented_ones() -> None:
    assert (TRAIL_DEFAULT, TRAIL_MAX) == (100, 1000)
    assert (LOG_DEFAULT, LOG_MAX) == (1000, 10_000)
