"""Which proxy leads to a model server, by setting and environment."""

import base64

import pytest

from chatbot.llm.http.server_address import Proxy, find_proxy, parse_address, parse_proxy

PROXY = Proxy("proxy", 3128, "")
URL = "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "environment", "found"),
    [
        ("http://model:8000", {}, False),
        ("http://model:8000", {"HTTP_PROXY": URL}, True),
        ("http://model:8000", {"http_proxy": URL, "HTTP_PROXY": "http://other"}, True),
        ("http://model:8000", {"HTTPS_PROXY": URL}, False),
        ("https://model", {"HTTPS_PROXY": URL}, True),
        ("https://model", {"https_proxy": "proxy:3128"}, True),
        ("https://model", {"HTTP_PROXY": URL}, False),
        ("https://model", {"ALL_PROXY": URL}, True),
        ("https://model", {"HTTPS_PROXY": " "}, False),
    ],
)
def test_the_environment_names_a_proxy_by_the_servers_scheme(
    url: str, environment: dict[str, str], found: bool
) -> None:
    assert find_proxy("", parse_address(url, ""), environment) == (PROXY if found else None)


@pytest.mark.parametrize(
    ("host", "exceptions", "is_direct"),
    [
        ("model.lan:8000", "*", True),
        ("model.lan:8000", "model.lan", True),
        ("MODEL.lan:8000", "other, Model.LAN", True),
        ("a.model.lan:8000", "model.lan", True),
        ("a.model.lan:8000", ".lan", True),
        ("a.model.lan:8000", "*.lan", True),
        ("mymodel.lan:8000", "model.lan", False),
        ("model.lan:8000", "model.lan:8000", True),
        ("model.lan:8000", "model.lan:8001", False),
        ("10.1.2.3:8000", "10.0.0.0/8", True),
        ("11.1.2.3:8000", "10.0.0.0/8", False),
        ("10.1.2.3:8000", "10.1.2.3", True),
        ("10.1.2.3:8000", "10.1.2.3:8000", True),
        ("[fd00::1]:8000", "fd00::/8", True),
        ("[fd00::1]:8000", "[fd00::1]:8000", True),
        ("model.lan:8000", "", False),
        ("model.lan:8000", " , ", False),
        ("model.lan:8000", "10.0.0.0/8 fd00::/8", False),
        ("localhost:8000", "", True),
        ("127.0.0.2:8000", "", True),
        ("[::1]:8000", "", True),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_and_this_machine_are_exceptions(host: str, exceptions: str, is_direct: bool, name: str) -> None:
    environment = {"HTTP_PROXY": URL, name: exceptions}
    assert (find_proxy("", parse_address(f"http://{host}", ""), environment) is None) is is_direct


def test_the_setting_comes_before_the_environment_and_knows_no_exceptions() -> None:
    address = parse_address("http://localhost:8000", "")
    environment = {"HTTP_PROXY": "http://other", "NO_PROXY": "*"}
    assert find_proxy(URL, address, environment) == PROXY
    assert find_proxy("none", parse_address("http://model", ""), environment | {"NO_PROXY": ""}) is None


def test_credentials_go_into_a_header_and_are_not_shown() -> None:
    proxy = parse_proxy("http://me:p%40ss@proxy:3128")
    assert proxy.headers == f"Proxy-Authorization: Basic {base64.b64encode(b'me:p@ss').decode()}\r\n"
    assert proxy.origin == URL
    assert parse_proxy("http://[::1]").origin == "http://[::1]:80"


@pytest.mark.parametrize("url", ["https://proxy", "socks5://me:hidden@proxy", "http://", "http://me:hidden@:x"])
def test_other_kinds_of_proxy_are_refused_without_quoting_them(url: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        parse_proxy(url)
    assert "hidden" not in str(caught.value)
