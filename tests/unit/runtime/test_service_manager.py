"""What systemd is told, and what happens where it cannot be told."""

import sys
from pathlib import Path

import pytest
import structlog

from chatbot.runtime.service_manager import SystemdNotifier, take_systemd_notifier
from tests.support.programs.notify_socket import notify_socket

LOGGER = structlog.get_logger("run")
ABSTRACT = pytest.param(
    "@chatbot-test-notify", marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")
)


@pytest.mark.parametrize("address", ["", ABSTRACT])
def test_each_state_is_one_datagram_as_sd_notify_sends_it(address: str) -> None:
    with notify_socket(address) as socket:
        manager = SystemdNotifier(socket.address, LOGGER, monotonic_ns=lambda: 1_234_567)
        manager.ready()
        manager.reloading()
        manager.stopping()
        assert socket.received() == ["READY", "RELOADING", "STOPPING"]
        assert socket.states == ["READY=1", "RELOADING=1\nMONOTONIC_USEC=1234", "STOPPING=1"]


def test_the_variable_is_taken_so_that_child_processes_do_not_notify() -> None:
    with notify_socket() as socket:
        environment = {"NOTIFY_SOCKET": socket.address, "HOME": "/"}
        manager = take_systemd_notifier(LOGGER, environment)
        assert environment == {"HOME": "/"}
        manager.ready()
        assert socket.received() == ["READY"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_a_service_manager_nothing_is_sent_or_logged(environment: dict[str, str]) -> None:
    with structlog.testing.capture_logs() as logs:
        take_systemd_notifier(LOGGER, environment).ready()
    assert logs == []


def test_a_full_socket_neither_blocks_nor_stops_the_service() -> None:
    with notify_socket() as socket, structlog.testing.capture_logs() as logs:
        manager = SystemdNotifier(socket.address, LOGGER)
        for _ in range(100_000):  # more than any system keeps for a reader that does not read
            manager.ready()
            if logs:
                break
    assert [(line["event"], line["state"], line["log_level"]) for line in logs] == [
        ("service_manager.not_notified", "READY", "warning")
    ]


@pytest.mark.parametrize("name", ["missing", "x" * 200])
def test_a_socket_that_cannot_be_reached_is_a_warning_with_its_cause(tmp_path: Path, name: str) -> None:
    with structlog.testing.capture_logs() as logs:
        SystemdNotifier(str(tmp_path / name), LOGGER).stopping()
    (line,) = logs
    assert (line["event"], line["state"]) == ("service_manager.not_notified", "STOPPING")
    assert line["reason"]
