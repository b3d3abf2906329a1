"""Which Host and Origin a request may have, by the service's address and settings."""

from collections.abc import Mapping
from itertools import product
from types import SimpleNamespace

import pytest
from aiohttp.test_utils import make_mocked_request
from msgspec.structs import replace

from chatbot.api.middleware import check_host_and_origin
from chatbot.api.problems import Problem
from chatbot.config.sections.server_settings import ServerSettings

LOCAL = ServerSettings()
NAMED = ServerSettings(hosts=("Chat.Example.org", "[fd00::7]"))
OPEN = ServerSettings(host="0.0.0.0")
OPEN_NAMED = ServerSettings(host="0.0.0.0", hosts=("chat.example.org",))
V6 = ServerSettings(host="::1")


def refusal(
    server: ServerSettings,
    headers: Mapping[str, str],
    method: str = "GET",
    path: str = "/api/sessions",
    arrived_at: tuple[str, int] = ("127.0.0.1", 8080),
) -> Problem | None:
    transport = SimpleNamespace(get_extra_info=lambda name, default=None: {"sockname": arrived_at}.get(name, default))
    request = make_mocked_request(method, path, headers=headers, transport=transport)
    try:
        check_host_and_origin(request, server)
    except Problem as problem:
        return problem
    return None


@pytest.mark.parametrize("server", [LOCAL, NAMED, OPEN, OPEN_NAMED, V6], ids=lambda one: f"{one.host} {one.hosts}")
@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "LOCALHOST:1", "localhost.", "app.localhost:3000", "127.0.0.1", "127.9.8.7:8080",
     "[::1]", "[::1]:8080"],
)  # fmt: skip
def test_a_name_of_this_machine_itself_always_passes(server: ServerSettings, host: str) -> None:
    assert refusal(server, {"Host": host}) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost", "x",
     "localhost:8080@evil.example", "evil.example/localhost", "10.0.0.5", "0.0.0.0:8080", "[::2]", "[::1", "::1", "",
     "localhost:port", "localhost:123456", "localhost, evil.example", "localhost evil", "x" * 300],
)  # fmt: skip
def test_any_other_name_is_refused_on_a_loopback_address(host: str) -> None:
    for server, method in product((LOCAL, V6, NAMED), ("GET", "HEAD", "OPTIONS", "POST", "DELETE")):
        problem = refusal(server, {"Host": host}, method)
        assert problem is not None
        assert (problem.status, problem.kind) == (403, "host-not-allowed")
        assert repr(host)[:100] in problem.detail
        assert "server.hosts" in problem.detail
        assert len(problem.detail) < 400


@pytest.mark.parametrize(
    "host", ["chat.example.org", "CHAT.example.org:443", "chat.example.org.", "[fd00::7]:80", "[FD00::7]"]
)
def test_a_configured_name_passes_in_any_case_at_any_port(host: str) -> None:
    assert refusal(NAMED, {"Host": host}) is None
    assert refusal(LOCAL, {"Host": host}) is not None


def test_a_star_lets_every_name_pass() -> None:
    assert refusal(ServerSettings(hosts=("*",)), {"Host": "evil.example"}) is None


def test_an_address_that_others_reach_checks_names_only_where_they_are_configured() -> None:
    assert refusal(OPEN, {"Host": "anything.example"}) is None
    assert refusal(OPEN_NAMED, {"Host": "chat.example.org:8080"}) is None
    assert refusal(OPEN_NAMED, {"Host": "anything.example"}) is not None


@pytest.mark.parametrize(
    ("host", "arrived_at"),
    [("10.1.2.3:8080", ("10.1.2.3", 8080)), ("10.1.2.3", ("::ffff:10.1.2.3", 8080)), ("[fd00::9]", ("fd00::9", 8080))],
)
def test_the_address_that_was_called_passes(host: str, arrived_at: tuple[str, int]) -> None:
    """As a cluster's probes and Prometheus call it."""
    assert refusal(OPEN_NAMED, {"Host": host}, path="/metrics", arrived_at=arrived_at) is None
    assert refusal(OPEN_NAMED, {"Host": host}, path="/metrics", arrived_at=("10.9.9.9", 8080)) is not None


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_pass_by_any_name(path: str) -> None:
    assert refusal(LOCAL, {"Host": "10.1.2.3:8080"}, path=path) is None
    assert refusal(LOCAL, {"Host": "evil.example"}, path="/api/health") is not None


def test_a_request_of_http_1_0_without_a_host_is_no_browsers() -> None:
    assert refusal(LOCAL, {}) is None


WRITES = ["POST", "PATCH", "DELETE", "PUT", "PURGE"]
FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://localhost"},
    {"Origin": "http://127.0.0.1:8080"},
    {"Origin": "http://localhost:8080.evil.example"},
    {"Origin": "null"},
    {"Origin": "file://"},
    {"Origin": ""},
    {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost:8080", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_write_by_a_page_of_another_origin_is_refused(headers: dict[str, str]) -> None:
    friendly = replace(LOCAL, cors_origins=("https://friend.example",))
    for server, method in product((LOCAL, OPEN, friendly), WRITES):
        problem = refusal(server, {"Host": "localhost:8080", **headers}, method)
        assert problem is not None
        assert (problem.status, problem.kind) == (403, "origin-not-allowed")
        assert headers.get("Origin", headers.get("Sec-Fetch-Site", "")) in problem.detail
        assert "server.cors_origins" in problem.detail


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_what_changes_nothing_is_answered(headers: dict[str, str]) -> None:
    """A browser hides the answer from the page, as it lacks the headers of CORS."""
    for method in ("GET", "HEAD", "OPTIONS"):
        assert refusal(LOCAL, {"Host": "localhost:8080", **headers}, method) is None


@pytest.mark.parametrize("headers", [one for one in FOREIGN if one.get("Origin")], ids=str)
def test_a_configured_origin_may_write(headers: dict[str, str]) -> None:
    for method, origins in product(WRITES, (("https://x.example", headers["Origin"]), ("*",))):
        server = replace(LOCAL, cors_origins=origins)
        assert refusal(server, {"Host": "localhost:8080", **headers}, method) is None


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("localhost:8080", {}),
        ("localhost:8080", {"Origin": "http://localhost:8080"}),
        ("localhost:8080", {"Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"}),
        ("localhost:8080", {"Origin": "HTTP://LocalHost:8080"}),
        ("localhost:8080", {"Sec-Fetch-Site": "none"}),
        ("localhost", {"Origin": "http://localhost"}),
        ("localhost:80", {"Origin": "http://localhost"}),
        ("localhost:443", {"Origin": "https://localhost"}),
        ("chat.example.org", {"Origin": "https://chat.example.org"}),  # TLS ends at the proxy
        ("chat.example.org", {"Origin": "https://chat.example.org", "Sec-Fetch-Site": "same-origin"}),
        ("127.0.0.1:8081", {"Origin": "https://chat.example.org", "Sec-Fetch-Site": "same-origin"}),
        ("[::1]:8080", {"Origin": "http://[::1]:8080"}),
    ],
)  # fmt: skip
def test_a_page_of_our_own_and_a_program_may_write(host: str, headers: dict[str, str]) -> None:
    for method in WRITES:
        assert refusal(NAMED, {"Host": host, **headers}, method) is None
