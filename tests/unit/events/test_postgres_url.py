"""libpq's parameters in a URL: mapped, without effect, refused by name, or the server's settings."""

import pytest

from chatbot.cli.remedies import with_remedy
from events.errors import LogUnusable
from events.storage.postgres.postgres_url import CONNECT_MAX_S, CONNECT_S, ConnectionTarget, parse_postgres_url

PLACE = "postgresql://user:pass%3Fword@host:5432/chatbot"


def parsed(query: str) -> ConnectionTarget:
    return parse_postgres_url(f"{PLACE}?{query}")


def test_a_url_without_parameters_stays_as_it_is() -> None:
    assert parse_postgres_url(PLACE) == ConnectionTarget((PLACE,), {})


@pytest.mark.parametrize(
    "query",
    [
        "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5&tcp_user_timeout=9000",
        "gssencmode=disable&gssdelegation=0&channel_binding=prefer&sslcompression=0&sslsni=1",
        "load_balance_hosts=random&client_encoding=UTF8&sslcertmode=allow&replication=false",
        "min_protocol_version=3.0&max_protocol_version=latest&sslkeylogfile=",
    ],
)
def test_what_changes_nothing_here_is_left_out(query: str) -> None:
    assert parsed(query) == ConnectionTarget((PLACE,), {})


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("connect_timeout=10", 10.0), ("connect_timeout=0", CONNECT_MAX_S), ("connect_timeout=9999", CONNECT_MAX_S)],
)
def test_the_time_to_connect_is_the_urls_within_bounds(query: str, seconds: float) -> None:
    assert parsed(query).connect_timeout_s == seconds
    assert parsed("").connect_timeout_s == CONNECT_S


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("", "chatbot"),
        ("application_name=mine", "mine"),
        ("fallback_application_name=theirs", "theirs"),
        ("fallback_application_name=theirs&application_name=mine", "mine"),
    ],
)
def test_the_applications_name_is_the_urls(query: str, name: str) -> None:
    assert parsed(query).application_name == name


@pytest.mark.parametrize(
    ("query", "settings", "rest"),
    [
        ("options=-c%20search_path%3Da%2Cb", {"search_path": "a,b"}, ""),
        ("options=-csearch_path%3Da%20--work-mem%3D8MB", {"search_path": "a", "work_mem": "8MB"}, ""),
        ("options=endpoint%3Dquiet-pond-1", {}, "endpoint=quiet-pond-1"),
        ("options=project%3Dp%20-c%20geqo%3Doff&search_path=s", {"geqo": "off", "search_path": "s"}, "project=p"),
        ("options=-c%20search_path%3Da%5C%20b", {"search_path": "a b"}, ""),
    ],
)
def test_options_hold_settings_and_what_a_host_reads_at_startup(
    query: str, settings: dict[str, str], rest: str
) -> None:
    assert (parsed(query).settings, parsed(query).options) == (settings, rest)


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("sslmode=require&channel_binding=require", "sslmode=require"),
        ("channel_binding=require", "sslmode=require"),
        ("sslmode=prefer&channel_binding=require", "sslmode=require"),
        ("sslmode=verify-full&channel_binding=require", "sslmode=verify-full"),
        ("ssl=true", "sslmode=require"),
        ("sslmode=verify-ca&sslrootcert=/etc/ca%20s.pem", "sslmode=verify-ca&sslrootcert=%2Fetc%2Fca%20s.pem"),
        ("target_session_attrs=primary", "target_session_attrs=primary"),
        ("host=a,b&port=1,2", "host=a%2Cb&port=1%2C2"),
    ],
)
def test_what_asyncpg_understands_is_passed_to_it(query: str, kept: str) -> None:
    target = parsed(query)
    assert target.dsns == (f"{PLACE}?{kept}",)
    assert target.has_target == ("target_session_attrs" in query)
    assert target.settings == {}


@pytest.mark.parametrize(
    ("url", "dsns"),
    [
        ("postgresql://u:p@a:1,b:2/chat", ["postgresql://u:p@a:1/chat", "postgresql://u:p@b:2/chat"]),
        ("postgresql://[::1]:5,b/chat?sslmode=require", ["[::1]:5/chat?sslmode=require", "b/chat?sslmode=require"]),
        ("postgresql:///chat?host=a,b&port=1,2", ["/chat?host=a&port=1", "/chat?host=b&port=2"]),
        ("postgresql:///chat?host=a,b&port=1", ["/chat?host=a&port=1", "/chat?host=b&port=1"]),
        ("postgresql:///chat?host=a,b", ["/chat?host=a", "/chat?host=b"]),
        ("postgresql:///chat?host=a,b&port=1,2,3", ["/chat?host=a%2Cb&port=1%2C2%2C3"]),
        ("postgresql://a,b/?target_session_attrs=primary", [f"{h}/?target_session_attrs=primary" for h in "ab"]),
        ("postgresql://a,b/?target_session_attrs=prefer-standby", ["a,b/?target_session_attrs=prefer-standby"]),
        ("postgresql:///chat", ["/chat"]),
    ],
)
def test_each_host_has_an_address_of_its_own(url: str, dsns: list[str]) -> None:
    assert list(parse_postgres_url(url).dsns) == [f"postgresql://{one.removeprefix('postgresql://')}" for one in dsns]


def test_the_systems_authorities_prove_the_server() -> None:
    for query in ("sslrootcert=system", "sslmode=verify-full&sslrootcert=system"):
        assert parsed(query) == ConnectionTarget((PLACE,), {}, has_system_roots=True)
    with pytest.raises(LogUnusable, match="needs sslmode=verify-full"):
        parsed("sslmode=require&sslrootcert=system")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("require_auth=SECRET", "require_auth is not supported"),
        ("hostaddr=10.0.0.1", "hostaddr is not supported"),
        ("gssencmode=require", "gssencmode is supported with disable, prefer only"),
        ("client_encoding=LATIN1", "client_encoding is supported with"),
        ("replication=database", "replication is supported with"),
        ("connect_timeout=SECRET", "connect_timeout is a number"),
        ("options=-c%20'SECRET", "options cannot be understood"),
        ("nothing", "special characters"),
    ],
)
def test_what_is_not_understood_is_refused_by_name_and_never_by_value(query: str, says: str) -> None:
    with pytest.raises(LogUnusable) as refusal:
        parsed(query)
    assert says in with_remedy(refusal.value)
    assert "SECRET" not in str(refusal.value)
    assert "pass%3Fword" not in str(refusal.value)


def test_a_question_mark_in_the_password_is_not_the_begin_of_parameters() -> None:
    with pytest.raises(LogUnusable) as refusal:
        parse_postgres_url("postgresql://user:hunter?sec=ret@host/chatbot")
    told = with_remedy(refusal.value)
    assert "special characters" in told
    assert "sec" not in told.replace("special", "")


def test_what_nobody_else_knows_is_a_setting_of_the_server() -> None:
    assert parsed("search_path=%22My%20Schema%22&work_mem=8MB").settings == {
        "search_path": '"My Schema"',
        "work_mem": "8MB",
    }
