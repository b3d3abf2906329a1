"""The process that writes a log, and those that append through its socket: what happens when one of them ends, does not
read, or is of another version.
"""

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import chain, repeat
from pathlib import Path

import msgspec
import pytest

from events.errors import LogBusy, LogStopped, LogUnavailable, LogUnusable, OutcomeUnknown
from events.options import LogOptions
from events.record import EventHeader, Head
from events.remote import head_follower, remote_client, writer_connection
from events.remote.append_server import AppendServer
from events.remote.remote_client import RemoteClient
from events.remote.remote_log import RemoteLog
from events.remote.wire_format import PROTOCOL, Appends, FrameReader, Hello, Holds, Kind, Status, Welcome, frame
from events.storage.append_batch import PendingAppend
from tests.support.documents import TEXTS, blocks, name_of
from tests.support.log.log_service import LogService
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.media import file_bytes, put, read
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.programs.cutting_proxy import NEVER, Cut, CuttingProxy

SHORT_TIMEOUTS = LogOptions(busy_timeout_s=0.2, erase_wait_s=0.1)
GIVE_UP_S = 20.0


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[LogService]:
    service = LogService(tmp_path / "log.db")
    yield service
    await service.close()


@asynccontextmanager
async def connected_over(service: LogService, *cuts: Cut) -> AsyncIterator[tuple[RemoteLog, CuttingProxy]]:
    """A client whose connections are cut as planned."""
    proxy = CuttingProxy(service.address, cuts)
    await proxy.start()
    try:
        log = await RemoteLog.open(service.path, proxy.address, service.positions, LogOptions(busy_timeout_s=GIVE_UP_S))
        yield log, proxy
        await log.close()
    finally:
        await proxy.stop()


def first_answer_lost(service: LogService) -> Cut:
    """What the first append is answered with is cut off, after the greeting."""
    assert service.server is not None
    greeting = frame(Kind.WELCOME, service.server.welcome(PROTOCOL)) + frame(Kind.STATUS, Status())
    return NEVER[0], len(greeting) + 1


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.headers: list[EventHeader] = []
        self.held: list[tuple[str, int]] = []
        self.changed = asyncio.Event()

    def on_appended(self, headers: Sequence[EventHeader]) -> None:
        self.headers += headers
        self.changed.set()

    def on_held(self, stream_id: str, version: int) -> None:
        self.held.append((stream_id, version))
        self.changed.set()

    async def next(self) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            await self.changed.wait()
        self.changed.clear()


async def test_callers_do_not_notice_that_the_writer_is_replaced(service: LogService) -> None:
    await service.start()
    log, version = await service.connect(), 0
    is_over = False

    async def append() -> None:
        nonlocal version
        while not is_over:
            await log.append("a", version, [posted(str(version))], ASKED)
            version += 1

    appending = asyncio.create_task(append())
    for _ in range(3):
        while len(await log.read("a", limit=ALL)) < version:
            await asyncio.sleep(0)
        await service.stop()
        await service.start()
    is_over = True
    await appending
    assert texts(await log.read("a", limit=ALL)) == [str(number) for number in range(version)]


async def test_without_a_writer_callers_wait_and_are_told_what_is_known(service: LogService) -> None:
    await service.start()
    log = await service.connect(SHORT_TIMEOUTS)
    await service.stop()
    results = await asyncio.gather(
        log.append("a", 0, [posted("x")], ASKED), log.check_writable(), log.request("any"), return_exceptions=True
    )
    assert [type(result) for result in results] == [LogUnavailable] * 3
    assert "nothing was recorded" in str(results[0])
    assert not log.is_connected
    await log.close()
    await service.start()
    assert (await service.connect()).head().position == 0


async def test_an_append_whose_answer_is_lost_with_the_writer_is_of_unknown_outcome(service: LogService) -> None:
    await service.start()
    proxy = CuttingProxy(service.address, chain([first_answer_lost(service)], repeat((0, 0))))
    await proxy.start()
    log = await RemoteLog.open(service.path, proxy.address, service.positions, SHORT_TIMEOUTS)
    with pytest.raises(OutcomeUnknown):
        await log.append("a", 0, [posted("x")], ASKED)
    assert texts(await log.read_all(limit=ALL)) == ["x"]
    await log.close()
    await proxy.stop()


async def test_a_connection_over_which_the_writer_says_nothing_for_long_is_replaced(
    service: LogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_connection, "ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(writer_connection, "ANSWER_CHECK_S", 0.05)
    await service.start()
    log = await service.connect()
    assert service.server is not None
    for client in service.server.clients:
        monkeypatch.setattr(client, "data_received", lambda _data: None)
    async with asyncio.timeout(GIVE_UP_S):
        await fill(log, "a", "1")


async def test_a_log_is_not_opened_without_a_writer(service: LogService) -> None:
    with pytest.raises(LogUnusable, match="does not answer"):
        await service.connect(SHORT_TIMEOUTS)
    service.listener.close()
    with pytest.raises(LogUnusable, match="cannot be reached"):
        await service.connect(SHORT_TIMEOUTS)


async def test_programs_whose_protocols_have_nothing_in_common_say_so(
    service: LogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.start()
    monkeypatch.setattr(writer_connection, "PROTOCOL_MIN", PROTOCOL + 1)
    monkeypatch.setattr(writer_connection, "PROTOCOL", PROTOCOL + 3)
    with pytest.raises(LogUnusable, match=f"speaks protocols 1 to {PROTOCOL}, this one .* {PROTOCOL + 1} to"):
        await service.connect(SHORT_TIMEOUTS)


async def test_a_later_program_is_answered_in_the_protocol_of_the_writer(service: LogService) -> None:
    await service.start()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, service.address)
        await loop.sock_sendall(raw, frame(Kind.HELLO, [PROTOCOL + 3, 1, "name", "9.9", "of a later program"]))
        ((kind, content), *_) = FrameReader().feed(await loop.sock_recv(raw, 65_536))
    assert kind == Kind.WELCOME
    welcome = msgspec.msgpack.decode(content, type=Welcome)
    assert (welcome.protocol, welcome.program, welcome.refusal) == (PROTOCOL, "unknown", None)


async def test_a_client_that_does_not_read_is_cut_off_and_disturbs_nobody(
    service: LogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_client, "UNREAD_BYTES_MAX", 10_000)
    await service.start()
    log = await service.connect()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(raw, service.address)
        await loop.sock_sendall(raw, frame(Kind.HELLO, Hello(PROTOCOL, PROTOCOL, "stopped", "1")))
        await loop.sock_sendall(raw, frame(Kind.HOLDS, Holds(["a" * 200], [])))
        assert service.server is not None
        while len(service.server.clients) < 2:
            await asyncio.sleep(0)
        version = 0
        while len(service.server.clients) == 2:
            recorded = await log.append("a" * 200, version, [posted("x")] * 500, ASKED)
            version = recorded[-1].version
    assert [client.name for client in service.server.clients] != ["stopped"]
    assert (await log.latest()).position == version


async def test_frames_that_are_no_frames_end_their_connection_only(service: LogService) -> None:
    await service.start()
    log = await service.connect()
    loop = asyncio.get_running_loop()
    for nonsense in (b"\xff" * 64, frame(Kind.HELLO, "hello"), frame(Kind.APPENDS, [])):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.setblocking(False)
            await loop.sock_connect(raw, service.address)
            await loop.sock_sendall(raw, nonsense)
            async with asyncio.timeout(GIVE_UP_S):
                assert await loop.sock_recv(raw, 1) == b""
    await fill(log, "a", "1")


async def test_what_was_missed_while_the_connection_was_broken_is_reported_after_it(service: LogService) -> None:
    await service.start()
    other, heard = await service.connect(), Heard()
    await fill(other, "a", "1")
    await fill(other, "b", "1")
    async with connected_over(service) as (log, proxy):
        log.listen(heard)
        log.hold("a")
        await heard.next()
        assert heard.held == [("a", 1)]
        await proxy.stop()
        await other.append("a", 1, [posted("2")], ASKED)
        await other.erase("b", 1, deleted(), ASKED)
        await other.append("c", 0, [posted("3")], ASKED)
        await proxy.start()
        while len(heard.held) < 2 or not heard.headers:
            await heard.next()
        assert heard.held == [("a", 1), ("a", 2)]
        assert [(one.stream_id, one.version) for one in heard.headers] == [("b", 2)]


async def test_an_upload_goes_on_over_the_next_connection(service: LogService) -> None:
    await service.start()
    content = file_bytes(3_000_000)
    cuts = [(400_000, NEVER[1]), (NEVER[0], 150), (1_200_000, NEVER[1]), (700_000, 160), NEVER]
    async with connected_over(service, *cuts) as (log, proxy):
        stat = await put(log, content)
        assert await read(log, stat.sha256) == content
        assert proxy.connections > 2
        assert await log.media.left_bytes() == 0


async def test_the_state_of_the_log_is_known_to_its_clients(service: LogService) -> None:
    log = await service.start(SHORT_TIMEOUTS)
    client = await service.connect(SHORT_TIMEOUTS)
    await fill(client, "a", "1")
    reader = sqlite3.connect(service.path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchone()
    await client.erase("a", 1, deleted(), ASKED)
    assert client.erasure_pending
    reader.close()
    async with asyncio.timeout(GIVE_UP_S):
        while client.erasure_pending:
            await asyncio.sleep(0.05)
    assert not log.erasure_pending
    service.path.unlink()
    async with asyncio.timeout(GIVE_UP_S):
        while client.damage is None:
            await asyncio.sleep(0.05)
    with pytest.raises(LogUnavailable, match="deleted or replaced"):
        await client.append("a", 2, [posted("2")], ASKED)


async def test_further_requests_are_answered_and_messages_pushed(service: LogService) -> None:
    left: list[str] = []

    async def greet(client: RemoteClient, body: bytes) -> bytes:
        client.push("news", b"to " + body)
        if body == b"nobody":
            raise LogBusy("nobody is here")
        if body == b"bug":
            raise KeyError(body)
        return b"hello " + body

    await service.start(handlers={"greet": greet})
    assert service.server is not None
    service.server.on_client_closed.append(lambda client: left.append(client.program))
    client, pushed, connections = await service.connect(), list[bytes](), list[bool]()
    client.on_push("news", pushed.append)
    client.on_connected(lambda: connections.append(True))
    assert await client.request("greet", b"you") == b"hello you"
    assert pushed == [b"to you"]
    with pytest.raises(LogBusy, match="nobody is here"):
        await client.request("greet", b"nobody")
    with pytest.raises(LogUnavailable, match="KeyError"):
        await client.request("greet", b"bug")
    with pytest.raises(LogUnavailable, match="has no 'missing'"):
        await client.request("missing")
    await service.stop()
    assert left == ["unknown"]
    await service.start(handlers={"greet": greet})
    assert await client.request("greet", b"again") == b"hello again"
    assert connections == [True, True]


async def test_a_request_whose_answer_takes_too_long_is_given_up(service: LogService) -> None:
    async def wait(_client: RemoteClient, _body: bytes) -> bytes:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never

    await service.start(handlers={"wait": wait})
    client = await service.connect()
    with pytest.raises(LogUnavailable, match="in time"):
        await client.request("wait", timeout_s=0.01)


async def test_the_latest_head_has_what_this_process_has_read(service: LogService) -> None:
    """Readers can see a commit for a moment before its writer publishes the head."""
    await service.start()
    log = await service.connect()
    await fill(log, "a", "1", "2")
    head = log.head()
    service.positions.set_head(Head(1, bytes(32)))
    await log.read("a", limit=ALL)
    asked = asyncio.create_task(log.latest())
    await asyncio.sleep(0.01)
    assert not asked.done()
    service.positions.set_head(head)
    assert await asked == head


async def test_the_latest_head_is_not_waited_for_without_end(service: LogService) -> None:
    """As after a writer that was killed after its commit, before it published the head, and without another one."""
    await service.start()
    log = await service.connect(SHORT_TIMEOUTS)
    await fill(log, "a", "1", "2")
    await service.stop()
    service.positions.set_head(Head(1, bytes(32)))
    await log.read("a", limit=ALL)
    with pytest.raises(LogUnavailable, match="position 2"):
        async with asyncio.timeout(GIVE_UP_S):
            await log.latest()


async def test_callers_that_wait_for_the_head_share_one_request_and_leave_nothing_behind(
    service: LogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_client, "REQUESTS_MAX", 3)
    monkeypatch.setattr(writer_connection, "REQUESTS_MAX", 3)
    await service.start()
    log, other = await service.connect(), await service.connect()
    for _ in range(2):
        waiting = [asyncio.create_task(log.wait(0)) for _ in range(5)]
        await log.check_writable()
        for task in waiting[1:]:
            task.cancel()
    await log.check_writable()
    await fill(other, "a", "1")
    async with asyncio.timeout(GIVE_UP_S):
        assert (await waiting[0]).position == 1


async def test_the_head_is_waited_for_though_too_many_requests_wait(
    service: LogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop goes on meanwhile, and other callers are refused."""
    monkeypatch.setattr(writer_connection, "REQUESTS_MAX", 0)
    monkeypatch.setattr(head_follower, "RETRY_S", 0.01)
    await service.start()
    log, other = await service.connect(), await service.connect()
    waiting = asyncio.create_task(log.wait(0))
    await asyncio.sleep(0)
    with pytest.raises(LogBusy):
        await log.check_writable()
    await fill(other, "a", "1")
    async with asyncio.timeout(GIVE_UP_S):
        assert (await waiting).position == 1


async def test_appends_at_which_the_writer_ends_each_time_are_given_up_and_others_go_on(
    service: LogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_connection, "RETRY_S", (0.01, 0.05))
    submit = RemoteClient._submit

    def submit_or_end(client: RemoteClient, appends: Appends) -> None:
        if any(append.stream_id == "fatal" for append in appends.appends):
            client._cut()
        else:
            submit(client, appends)

    monkeypatch.setattr(RemoteClient, "_submit", submit_or_end)
    await service.start()
    log = await service.connect(SHORT_TIMEOUTS)
    calls = (log.append(stream, 0, [posted("x")], ASKED) for stream in ("fatal", "behind it"))
    async with asyncio.timeout(GIVE_UP_S):
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [OutcomeUnknown] * 2
        await fill(log, "a", "1")


async def test_appends_in_doubt_are_not_refused_for_a_full_queue(service: LogService) -> None:
    await service.start(LogOptions(append_queue_max=1))
    async with connected_over(service, first_answer_lost(service)) as (log, _):
        await asyncio.gather(*(fill(log, str(number), "x") for number in range(5)))


async def test_an_append_in_doubt_that_cannot_be_searched_for_is_answered(
    service: LogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_server: AppendServer, _append: PendingAppend) -> int:
        raise sqlite3.ProgrammingError("of a bug")

    monkeypatch.setattr(AppendServer, "find", fail)
    await service.start()
    async with connected_over(service, first_answer_lost(service)) as (log, _):
        async with asyncio.timeout(GIVE_UP_S):
            with pytest.raises(OutcomeUnknown, match="of a bug"):
                await log.append("a", 0, [posted("x")], ASKED)


async def test_what_comes_with_the_greeting_does_not_hide_what_was_missed_before(
    service: LogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.start()
    other, heard, joined = await service.connect(), Heard(), AppendServer.joined
    async with connected_over(service) as (log, proxy):
        log.listen(heard)
        await proxy.stop()
        for name in "abc":
            await other.append(name, 0, [deleted()], ASKED)

        def joined_at_a_commit(server: AppendServer, client: RemoteClient) -> Status:
            client.add_appended(EventHeader(3, "c", 1, "session_deleted"))
            return joined(server, client)

        monkeypatch.setattr(AppendServer, "joined", joined_at_a_commit)
        await proxy.start()
        while {one.stream_id for one in heard.headers} != set("abc"):
            await heard.next()


async def test_streams_that_are_held_and_released_without_a_writer_are_forgotten(
    service: LogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Holds] = []
    monkeypatch.setattr(AppendServer, "hold", lambda _server, _client, holds: told.append(holds))
    await service.start()
    log = await service.connect()
    await service.stop()
    while log.is_connected:
        await asyncio.sleep(0)
    for number in range(3):
        log.hold(str(number))
        log.release(str(number))
    log.hold("kept")
    assert not log._connection._to_hold, "it grows for as long as there is no writer"
    await service.start()
    await fill(log, "a", "1")
    assert told == [Holds(["kept"], [])]


async def test_events_whose_appender_got_an_error_are_reported_all_the_same(service: LogService) -> None:
    await service.start()
    log, other, heard = await service.connect(), await service.connect(), Heard()
    other.listen(heard)
    other.hold("a")
    await heard.next()
    await fill(log, "a", "1")
    await heard.next()
    service.path.rename(service.path.with_name("elsewhere.db"))
    appends = log.append("a", 1, [posted("2")], ASKED), log.append("b", 0, [deleted()], ASKED)
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [type(result) for result in results] == [OutcomeUnknown] * 2
    service.path.with_name("elsewhere.db").rename(service.path)
    async with asyncio.timeout(GIVE_UP_S):
        while heard.held[-1] != ("a", 2) or ("b", 1) not in [(one.stream_id, one.version) for one in heard.headers]:
            await heard.next()
    other.release("a")
    other.hold("a")
    await heard.next()
    assert heard.held[-1] == ("a", 2)


async def test_events_of_a_batch_that_failed_after_its_commit_are_reported_too(
    service: LogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await service.start()
    client, other, heard = await service.connect(), await service.connect(), Heard()
    other.listen(heard)
    assert log.write_side is not None
    newest = log.write_side.store.newest
    with monkeypatch.context() as patch:
        patch.setattr(newest, "add", lambda *_: 1 / 0)
        with pytest.raises(LogUnavailable, match="ZeroDivisionError"):
            await client.append("a", 0, [deleted()], ASKED)
    await heard.next()
    assert [one.stream_id for one in heard.headers] == ["a"]


async def test_nothing_is_appended_through_a_writer_of_another_file(service: LogService, tmp_path: Path) -> None:
    await service.start()
    log, path = await service.connect(SHORT_TIMEOUTS), service.path
    await fill(log, "a", "1")
    await service.stop()
    service.path = tmp_path / "other.db"
    await service.start()
    with pytest.raises(LogUnavailable, match="another file"):
        await log.append("a", 1, [posted("2")], ASKED)
    assert "another file" in str(log.damage)
    with pytest.raises(LogStopped, match="another file"):
        await log.append("a", 1, [posted("2")], ASKED)
    assert service.log is not None
    assert service.log.head().position == 0
    service.path = path
    with pytest.raises(LogUnusable, match="another file"):
        await service.connect(SHORT_TIMEOUTS)
    await service.stop()
    await service.start()
    async with asyncio.timeout(GIVE_UP_S):
        while log.damage is not None:
            await asyncio.sleep(0.01)
    await log.append("a", 1, [posted("2")], ASKED)


async def test_a_writer_whose_log_has_lost_events_is_not_used(service: LogService) -> None:
    await service.start()
    log = await service.connect(SHORT_TIMEOUTS)
    await fill(log, "a", "1")
    await service.stop()
    copy = service.path.read_bytes()
    await service.start()
    await log.append("a", 1, [posted("2")], ASKED)
    await service.stop()
    service.path.write_bytes(copy)
    await service.start()
    with pytest.raises(LogUnavailable, match=r"ends at position 1, .* position 2"):
        await log.append("b", 0, [posted("3")], ASKED)
    assert "lost events" in str(log.damage)


def test_the_example_in_the_documents_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = [text for path, text in TEXTS.items() if name_of(path) == "events/README.md"]
    (example,) = blocks(text, "python")
    exec(example, {"__name__": "example"})
    assert capsys.readouterr().out == "somebody was greeted\nhello you 0\n"
