"""What workers share: ports, shared memory, orders."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from chatbot.config.loader import load
from chatbot.config.settings import Settings
from chatbot.workers.connection_counts import ConnectionCounts, FairShare, create_counts_file
from chatbot.workers.control_channel import ControlChannel, ControlMessage, open_channel, send
from chatbot.workers.inherited_fds import InheritedFds, WriterFds, take_inherited_fds
from chatbot.workers.private_socket import PREFIX, PrivateSocket
from chatbot.workers.server_sockets import CannotListen, bind_sockets, service_url, start_listening
from chatbot.workers.shared_resources import SharedResources
from chatbot.workers.worker import Worker
from chatbot.workers.writer_supervisor import CHECKS
from chatbot.writer.database_check import check_same_database, check_same_place
from events.errors import LogUnusable
from tests.support.service import ROOT, environment


async def test_orders_are_carried_out_and_the_end_of_the_master_is_one() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    control = ControlChannel(theirs.detach(), asyncio.Event())
    running = asyncio.create_task(control.run())
    reader, writer = await open_channel(ours)
    send(writer, ControlMessage(siblings={1: "a", 2: "b"}, restarts=3))
    send(writer, ControlMessage(retire=True))
    async with asyncio.timeout(5):
        await control.retire.wait()
        assert (control.siblings, control.restarts, control.stop.is_set()) == ({1: "a", 2: "b"}, 3, False)
        control.ready("me")
        assert b'"me"' in await reader.readline()
        writer.close()
        await control.stop.wait()
    running.cancel()
    await asyncio.wait([running])


def test_an_inheritance_is_taken_once_and_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = WriterFds("/run/writer.sock", 8, 9, database="/l.db", projections="/p.db", silent_s=1, listener=10)
    mine = InheritedFds(0, listeners=(5,), connection_counts=6, control=7, secret="s", role="writer", writer=writer)
    assert mine.descriptors == (5, 6, 7, 8, 9, 10)
    for name, value in mine.to_environment().items():
        monkeypatch.setenv(name, value)
    assert take_inherited_fds() == mine
    assert take_inherited_fds() is None


async def test_what_a_worker_has_inherited_stays_with_it() -> None:
    """A program that it starts would else keep the database locked and the port taken after all workers have ended."""
    (listener,), (control, theirs) = bind_sockets("127.0.0.1", 0), socket.socketpair()
    numbers = (listener.detach(), theirs.detach(), create_counts_file(2))
    for number in numbers:
        os.set_inheritable(number, True)
    worker = Worker(
        InheritedFds(1, numbers[:1], connection_counts=numbers[2], control=numbers[1], secret="s"), asyncio.Event()
    )
    assert not any(os.get_inheritable(number) for number in numbers)
    assert worker.writer is None
    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
    structlog.contextvars.unbind_contextvars("worker")
    control.close()
    worker.control._end.close()
    worker.listeners[0].close()
    os.close(numbers[2])


def test_the_least_busy_worker_takes_the_next_connection() -> None:
    descriptor = create_counts_file(3)
    one, two = (FairShare(ConnectionCounts(descriptor), slot) for slot in (1, 2))
    assert one.should_accept(100, slack=4)  # it is alone
    assert two.should_accept(0, slack=4)
    assert not one.should_accept(100, slack=4)
    assert one.should_accept(4, slack=4)
    two.leave()
    assert one.should_accept(100, slack=4)
    os.close(descriptor)


def test_all_addresses_of_a_host_share_one_port() -> None:
    bound = bind_sockets("127.0.0.1", 0)
    address = bound[0].getsockname()
    start_listening(bound)
    with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{address[1]}: Address already in use; .* PORT"):
        bind_sockets("127.0.0.1", address[1])
    assert service_url(address) == f"http://127.0.0.1:{address[1]}"
    assert service_url(("::1", 80, 0, 0)) == "http://[::1]:80"
    for one in bound:
        one.close()


def takes(bound: list[socket.socket], family: socket.AddressFamily, host: str) -> bool:
    with socket.socket(family) as client:
        try:
            client.connect((host, bound[0].getsockname()[1]))
        except ConnectionRefusedError:
            return False
        return True


@pytest.mark.skipif(not socket.has_ipv6, reason="this system has no IPv6")
@pytest.mark.parametrize(("host", "by_4", "by_6"), [("::", True, True), ("::1", False, True), ("0.0.0.0", True, False)])
def test_all_of_ipv6_takes_ipv4_too(host: str, by_4: bool, by_6: bool) -> None:
    bound = bind_sockets(host, 0)
    try:
        start_listening(bound)
        assert takes(bound, socket.AF_INET, "127.0.0.1") is by_4
        assert takes(bound, socket.AF_INET6, "::1") is by_6
    finally:
        for one in bound:
            one.close()


@pytest.mark.parametrize("first", [socket.AF_INET, socket.AF_INET6])
def test_a_name_with_an_address_of_ipv6_is_served_without_ipv6(
    monkeypatch: pytest.MonkeyPatch, first: socket.AddressFamily
) -> None:
    four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0))  # of no machine: for documents
    found = [four, six] if first == socket.AF_INET else [six, four]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    (one,) = bind_sockets("localhost", 0)
    assert one.getsockname()[0] == "127.0.0.1"
    one.close()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [six])
    with pytest.raises(CannotListen):
        bind_sockets("localhost", 0)


def test_the_writers_socket_is_for_this_user_alone(tmp_path: Path) -> None:
    settings = load({}, environment=environment(tmp_path, "http://127.0.0.1:1"), folder=ROOT).settings
    with ExitStack() as stack:
        writer = SharedResources(settings, stack).for_worker(1).writer
        assert writer is not None
        folder = Path(writer.address).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_a_socket_that_was_deleted_is_made_again_at_the_same_path() -> None:
    one = PrivateSocket()
    try:
        first = one.listener()
        assert one.listener() is first
        shutil.rmtree(Path(one.address).parent)
        assert one.listener() is not first
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(one.address)
        assert stat.S_IMODE(Path(one.address).parent.stat().st_mode) == 0o700
    finally:
        one.close()


def test_a_long_path_for_temporary_files_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    one = PrivateSocket()
    assert Path(one.address).parent.parent != long
    one.close()


def test_folders_of_killed_masters_are_deleted_and_those_of_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        serving = PrivateSocket()
        (left := Path(folder, PREFIX + "left")).mkdir()
        (left / "writer.sock").touch()
        (others := Path(folder, PREFIX + "others")).mkdir()
        (others / "notes").touch()
        one = PrivateSocket()
        assert set(Path(folder).iterdir()) == {Path(one.address).parent, Path(serving.address).parent, others}
        one.close()
        serving.close()
        assert list(Path(folder).iterdir()) == [others]


def test_a_writer_that_hangs_is_killed_in_half_the_time_for_which_requests_wait_for_one(tmp_path: Path) -> None:
    """The other half is for the start of the next one, on a busy machine."""
    settings = load({}, environment=environment(tmp_path, "http://127.0.0.1:1"), folder=ROOT).settings
    found_s = settings.server.writer_silent_s * (CHECKS + 1) / CHECKS
    assert found_s <= settings.database.busy_timeout_s / 2


@pytest.mark.parametrize(
    "changed",
    [
        {"DATABASE_URL": "/elsewhere/chatbot.db"},
        {"DATABASE_URL": "postgresql://user:hidden@nowhere/chatbot"},
        {"CHATBOT_DATABASE_PROJECTIONS_PATH": "others.db"},
    ],
)
def test_a_process_with_settings_of_another_database_is_refused(tmp_path: Path, changed: dict[str, str]) -> None:
    def loaded(**settings: str) -> Settings:
        return load({}, environment=environment(tmp_path, "http://127.0.0.1:1", **settings), folder=ROOT).settings

    first = loaded()
    fds = WriterFds("/run/writer.sock", 8, 9, *first.database.files, silent_s=2)
    check_same_database(first, fds)
    with pytest.raises(LogUnusable, match="restart the service") as refused:
        check_same_database(loaded(**changed), fds)
    assert "hidden" not in str(refused.value)


PLACE = "postgresql://chat@db.example/chatbot"


def settings_of(folder: Path, url: str) -> Settings:
    return load({}, environment=environment(folder, "http://127.0.0.1:1", DATABASE_URL=url), folder=ROOT).settings


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://chat@other.example/chatbot",
        "postgresql://chat@db.example:5433/chatbot",
        "postgresql://chat@db.example,other.example/chatbot",
        "postgresql://chat:hidden@db.example/chatbot2",
        f"{PLACE}?search_path=others",
        f"{PLACE}?options=-csearch_path%3Dothers",
        f"{PLACE}?dbname=chatbot2",
        "chatbot.db",
    ],
)
def test_a_worker_with_the_url_of_another_database_is_refused(tmp_path: Path, url: str) -> None:
    served = settings_of(tmp_path, PLACE).database.postgres_place
    with pytest.raises(LogUnusable, match="restart the service") as refused:
        check_same_place(settings_of(tmp_path, url), served)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        PLACE,
        "postgres://chat:a%40new%2Fpassword@DB.example:5432/chatbot",
        "postgresql://another@db.example/chatbot?sslmode=require&application_name=x&connect_timeout=3",
    ],
)
def test_a_reload_may_change_how_a_worker_connects(tmp_path: Path, url: str) -> None:
    check_same_place(settings_of(tmp_path, url), settings_of(tmp_path, PLACE).database.postgres_place)


def test_a_master_that_does_not_say_which_database_it_serves_is_believed(tmp_path: Path) -> None:
    check_same_place(settings_of(tmp_path, PLACE), "")
    assert settings_of(tmp_path, "chatbot.db").database.postgres_place == ""
