"""The client's address: whose word counts, and how far."""

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from chatbot.api.access.client_address import ENTRY_MAX_CHARS, HOPS_MAX, client_address, client_network, parse_address

PROXIES = ("127.0.0.1", "10.0.0.0/8", "fd00::/8")


def address_for(*forwarded: str, remote: str | None = "127.0.0.1", trusted: tuple[str, ...] = PROXIES) -> str:
    headers = CIMultiDict(("X-Forwarded-For", one) for one in forwarded)
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=remote or "")
    return client_address(request, trusted)


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ([], "127.0.0.1"),
        (["203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9, 10.1.2.3, fd00::1"], "203.0.113.9"),
        (["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        (["203.0.113.9:4711"], "203.0.113.9"),
        (["2001:DB8::0:1"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["fe80::1%eth0"], "fe80::1"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["::ffff:10.0.0.1"], "10.0.0.1"),
    ],
)
def test_the_last_address_that_is_no_trusted_proxy_is_the_client(forwarded: list[str], address: str) -> None:
    assert address_for(*forwarded) == address
    assert address_for(*forwarded, remote="::ffff:127.0.0.1") == address


@pytest.mark.parametrize("remote", ["192.0.2.7", "2001:db8::7", "::1"])
def test_a_client_cannot_say_who_it_is(remote: str) -> None:
    assert address_for("203.0.113.9", remote=remote) == remote


def test_without_trusted_proxies_nobody_can() -> None:
    assert address_for("203.0.113.9", trusted=()) == "127.0.0.1"


@pytest.mark.parametrize(
    "entry", ["", "unknown", "_hidden", "203.0.113", "203.0.113.9:x", "[::1", "[::1]x", "1.2.3.4 5", "\x00", "9" * 100]
)
def test_an_entry_that_is_no_address_ends_the_chain_at_the_proxy_that_wrote_it(entry: str) -> None:
    assert address_for(f"203.0.113.9, {entry}") == "127.0.0.1"
    assert address_for(f"203.0.113.9, {entry}, 10.0.0.2") == "10.0.0.2"


def test_a_long_chain_is_not_walked_to_its_end() -> None:
    assert address_for("203.0.113.9, " + ", ".join(["10.0.0.1"] * HOPS_MAX)) == "10.0.0.1"
    assert address_for("203.0.113.9, " + ", ".join(["10.0.0.1"] * (HOPS_MAX - 1))) == "203.0.113.9"


def test_a_unix_socket_has_no_address() -> None:
    assert address_for("203.0.113.9", remote="") == "unix"


@given(st.lists(st.one_of(st.text(max_size=80), st.ip_addresses().map(str)), max_size=40))
def test_any_header_gives_an_address_and_never_a_fault(forwarded: list[str]) -> None:
    address = address_for(",".join(forwarded))
    assert parse_address(address) == address
    assert len(address) <= ENTRY_MAX_CHARS


@given(st.text(max_size=200), st.ip_addresses().map(str))
def test_what_a_client_writes_before_the_proxys_entry_changes_nothing(written: str, client: str) -> None:
    assert address_for(f"{written}, {client}", trusted=("127.0.0.1",)) == address_for(client, trusted=("127.0.0.1",))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("unix", "unix"),
    ],
)
def test_an_ipv6_client_is_its_network(address: str, network: str) -> None:
    assert client_network(address) == network
