"""Where a model server's paths are, by the address that people give."""

import pytest

from chatbot.llm.http.server_address import is_completions_endpoint, parse_address, shown_origin


@pytest.mark.parametrize(
    ("path", "api_prefixes", "midm_prefix"),
    [
        ("", ("/v1", ""), ""),
        ("/", ("/v1", ""), ""),
        ("/v1", ("/v1",), ""),
        ("/v1/", ("/v1",), ""),
        ("/v1//", ("/v1",), ""),
        ("/V1", ("/V1", "/V1/v1"), ""),
        ("/engines/v1", ("/engines/v1",), "/engines"),
        ("/api", ("/api/v1", "/api"), "/api"),
        ("/api/v3", ("/api/v3", "/api/v3/v1"), "/api"),
        ("/api/paas/v4/", ("/api/paas/v4", "/api/paas/v4/v1"), "/api/paas"),
        ("/v1beta/openai", ("/v1beta/openai", "/v1beta/openai/v1"), "/v1beta/openai"),
        ("/v1/chat/completions", ("/v1",), ""),
        ("/v1/chat/completions/", ("/v1",), ""),
        ("/v1/models", ("/v1",), ""),
        ("/openai/deployments/mine/chat/completions", ("/openai/deployments/mine",), "/openai/deployments/mine"),
        ("/gpu/chat/stream", ("/gpu/chat/stream/v1", "/gpu/chat/stream"), "/gpu"),
        ("/my%20proxy/v1", ("/my%20proxy/v1",), "/my%20proxy"),
        ("/vllm", ("/vllm/v1", "/vllm"), "/vllm"),
    ],
)
def test_a_path_with_a_version_or_an_endpoint_is_taken_as_it_is(
    path: str, api_prefixes: tuple[str, ...], midm_prefix: str
) -> None:
    address = parse_address(f"http://host:8000{path}", "")
    assert (address.api_prefixes, address.prefix) == (api_prefixes, midm_prefix)


def test_the_query_of_an_address_is_kept_and_shown_to_nobody() -> None:
    address = parse_address("https://host/openai/v1/?api-version=2024-10-21", "")
    assert (address.query, address.api_prefixes) == ("?api-version=2024-10-21", ("/openai/v1",))
    assert address.origin == "https://host:443"


@pytest.mark.parametrize("url", ["ftp://host", "host:8000", "http://", "http://host:port", "http://host/안녕"])
def test_what_cannot_be_asked_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|port|Port|percent"):
        parse_address(url, "")


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/v2/chat/completions", "/v2/chat/completions"),
        ("completions/", "/v1/chat/completions/"),
        ("http://host:8000/other?x=1", "/other?x=1"),
        ("http://HOST:8000", "/"),
        ("//host:8000/a", "/a"),
        ("https://host:8000/a", None),
        ("http://host:8001/a", None),
        ("http://host/a", None),
        ("http://elsewhere:8000/a", None),
        ("//elsewhere/a", None),
        ("http://host:8000@elsewhere/", None),
    ],
)
def test_a_redirect_leads_only_to_the_same_server(location: str, target: str | None) -> None:
    address = parse_address("http://host:8000", "")
    assert address.target_of(address.resolve("/v1/chat/completions", location)) == target


@pytest.mark.parametrize("location", ["http://host:8000/a b", "http://host:8000/?a\tb c", "http://[host", "/%0d안"])
def test_a_location_that_cannot_be_sent_is_refused(location: str) -> None:
    address = parse_address("http://host:8000", "")
    with pytest.raises(ValueError, match=r".+"):
        address.target_of(address.resolve("/", location))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:word@host:444/secret?key=1", "https://host:444"),
        ("http://host/path", "http://host"),
        ("http://me:hidden@[::1]:80/", "http://[::1]:80"),
        ("http://host:port/", "an address that is no URL"),
        ("http://[host", "an address that is no URL"),
    ],
)
def test_an_origin_shows_neither_credentials_nor_path_nor_query(url: str, shown: str) -> None:
    assert shown_origin(url) == shown


@pytest.mark.parametrize(
    ("url", "says"),
    [("http://h/v1/chat/completions", True), ("http://h/chat/completions/?a=1", True), ("http://h/v1", False)],
)
def test_the_full_address_of_completions_is_known(url: str, says: bool) -> None:
    assert is_completions_endpoint(url) is says
