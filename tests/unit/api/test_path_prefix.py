"""The path under which a proxy publishes the service: whose word counts, and what it does to the paths."""

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict
from yarl import URL

from chatbot.api.server.path_prefix import is_trusted, prefix_of, strip_prefix
from chatbot.config.loader import ConfigError, load
from chatbot.config.sections.server_settings import ServerSettings

PROXIES = ("127.0.0.1", "10.0.0.0/8", "fd00::/8")


def prefix_for(*prefixes: str, remote: str = "127.0.0.1", own: str = "") -> str:
    headers = CIMultiDict(("X-Forwarded-Prefix", one) for one in prefixes)
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=remote)
    return prefix_of(request, ServerSettings(path_prefix=own, trusted_proxies=PROXIES))


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        (["/chat"], "/chat"),
        (["/chat/"], "/chat"),
        (["/a/b-c_d.e~1"], "/a/b-c_d.e~1"),
        (["/a, /b/"], "/a/b"),
        (["/a", "/b"], "/a/b"),
        (["/"], ""),
        ([""], ""),
        ([], "/own"),
        (["chat"], "/own"),
        (["//evil.example"], "/own"),
        (["/a/../b"], "/own"),
        (["/./a"], "/own"),
        (["https://evil.example/a"], "/own"),
        (["/a?b"], "/own"),
        (["/a\r\nX: y"], "/own"),
        (["/" + "x" * 200], "/own"),
    ],
)
def test_the_prefix_of_a_trusted_proxy_counts_where_it_is_a_path(given: list[str], prefix: str) -> None:
    assert prefix_for(*given, own="/own") == prefix
    assert prefix_for(*given, own="/own", remote="192.168.0.1") == "/own", "nobody trusts this one"


@pytest.mark.parametrize(
    ("remote", "trusted"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", False),
        ("10.255.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("::ffff:192.168.0.1", False),
        ("fd12::1", True),
        ("::1", False),
        ("", False),
        ("unix", False),
        (None, False),
    ],
)
def test_a_proxy_is_trusted_by_its_address(remote: str | None, *, trusted: bool) -> None:
    assert is_trusted(remote, PROXIES) is trusted
    assert not is_trusted(remote, ())


class Message:
    def __init__(self, path: str, url: URL) -> None:
        self.path, self.url = path, url

    def _replace(self, **changed: Any) -> "Message":
        return Message(**{"path": self.path, "url": self.url, **changed})


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/chat/api/sessions?limit=1&cursor=%2F", "/api/sessions?limit=1&cursor=%2F"),
        ("/chat", "/"),
        ("/chat?x=1", "/?x=1"),
        ("/chat/", "/"),
        ("/chat//evil.example/x", "//evil.example/x"),
        ("/chatter/api", "/chatter/api"),
        ("/api/chat", "/api/chat"),
        ("/Chat/api", "/Chat/api"),
        ("*", "*"),
    ],
)
def test_a_prefix_is_taken_off_what_is_asked(path: str, own: str) -> None:
    def make(message: Any) -> Any:
        return message

    message: Any = strip_prefix("/chat", make)(Message(path, URL("/as/it/was")))
    assert message.path == own
    if path != own:
        assert (message.url.raw_path_qs, message.url.host) == (own, None)


def test_without_a_prefix_nothing_is_wrapped() -> None:
    def make() -> web.BaseRequest:
        raise NotImplementedError

    assert strip_prefix("", make) is make


@pytest.mark.parametrize("prefix", ["chat", "/chat/", "//x", "/a/../b", "/.", "/a b", "/a?b"])
def test_a_prefix_that_is_no_path_stops_the_start(prefix: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.path_prefix.*such as /chat"):
        load(environment={"CHATBOT_SERVER_PATH_PREFIX": prefix})


def test_a_proxy_that_is_no_address_stops_the_start() -> None:
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies .*proxy\.example is no address and no network"):
        load(environment={"CHATBOT_SERVER_TRUSTED_PROXIES": "10.0.0.0/8,proxy.example"})
