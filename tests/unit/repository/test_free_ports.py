"""Ports for real parts are taken by nothing else between the question and the start of the part."""

import socket

import pytest

from tests.support.programs import external_programs


def test_ports_are_different_and_from_the_range_kept_for_parts() -> None:
    ports = [external_programs.free_port() for _ in range(20)] + external_programs.free_ports(20)
    assert len(set(ports)) == 40
    assert set(ports) <= set(external_programs.PORTS)


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    used, free = external_programs.free_ports(2)
    monkeypatch.setattr(external_programs, "_candidates", iter([used, free]))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", used))
        assert external_programs.free_port() == free


def test_too_few_free_ports_are_an_error_and_no_short_list() -> None:
    with pytest.raises(RuntimeError, match="ports are not free"):
        external_programs.free_ports(len(external_programs.PORTS))
