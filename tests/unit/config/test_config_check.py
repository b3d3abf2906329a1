"""Settings that contradict each other do not start; a wide open service starts with a warning."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from chatbot.config.database_url import parse_database_url
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from chatbot.config.validation import find_faults, find_hints, find_risks

SECRET = "correct-horse-battery"


def changed(**sections: Mapping[str, object]) -> Settings:
    settings = Settings()
    return replace(settings, **{name: replace(getattr(settings, name), **change) for name, change in sections.items()})


def test_the_defaults_have_no_faults_and_no_risks() -> None:
    assert list(find_faults(Settings())) == []
    assert find_risks(Settings()) == ()


@pytest.mark.parametrize(
    ("settings", "first_name", "reason"),
    [
        (changed(chat={"default_max_tokens": 4097, "max_tokens_ceiling": 4096}, llm={"server_url": "http://x"}),
         "chat.default_max_tokens", "names no number"),
        (changed(chat={"default_max_tokens": 4096}), "chat.default_max_tokens", "no room is left for a prompt"),
        (changed(chat={"system_prompt": "x" * 8001}), "chat.system_prompt", "has 8001 characters"),
        (changed(chat={"message_max_chars": 100_000}), "chat.message_max_chars", "12 bytes a character"),
        (changed(llm={"provider": "midm"}), "llm.provider", "set LLM_SERVER_URL"),
        (changed(llm={"provider": "openai"}), "llm.provider", "set LLM_SERVER_URL"),
        (changed(llm={"server_url": "http://x", "reply_max_chars": 200_000}), "llm.line_max_bytes", "of 1200000 bytes"),
        (changed(llm={"api_key": "two\nlines"}), "llm.api_key", "no HTTP header"),
        (changed(nodes={"listen_host": "0.0.0.0", "secret": SECRET}), "nodes.advertise_host", "every machine to its"),
        (changed(nodes={"listen_host": "::", "secret": SECRET}), "nodes.advertise_host", "every machine to itself"),
        (changed(auth={"keys": {"phone": "short"}}), "auth.keys", "the secret of key 1 has 5 characters"),
        (changed(auth={"keys": {"phone": "비밀" * 10}}), "auth.keys", "no HTTP header"),
        (changed(auth={"keys": {"My Phone": SECRET}}), "auth.keys", "the name of key 1"),
        (changed(auth={"keys": {"x" * 65: SECRET}}), "auth.keys", "the name of key 1"),
        (changed(auth={"keys": {"a": SECRET, "b": SECRET}}), "auth.keys", "the same secret"),
        (changed(auth={"keys": {"a": SECRET}, "auditors": ("a", "B")}), "auth.auditors", "it lists the names of keys"),
        (changed(auth={"admins": ("a b",)}), "auth.admins", "it lists the names of keys"),
        (changed(auth={"front_ends": ("",)}), "auth.front_ends", "it lists the names of keys"),
        (changed(v1={"user_jwt_secret": "short"}), "v1.user_jwt_secret", "it has 5 characters"),
        (changed(database={"projections_path": "chatbot.db"}), "database.projections_path", "a file of their own"),
        (changed(database={"url": "mysql://x"}), "database.url", "no store speaks mysql://"),
        (changed(database={"projections_path": "~/p.db"}), "database.projections_path", "a ~ is not replaced"),
        (changed(database={"projections_path": "file:p.db"}), "database.projections_path", "file: is no part"),
        (changed(embedded={"model_path": "$HOME/m.gguf"}), "embedded.model_path", "variables are not replaced"),
        (changed(server={"host": "http://0.0.0.0"}), "server.host", "without scheme"),
        (changed(server={"host": "127.0.0.1:8080"}), "server.host", "the port has a setting of its own"),
        (changed(server={"host": "[::1]"}), "server.host", "without brackets"),
        (changed(server={"host": "my host"}), "server.host", "no host name has such"),
        (changed(nodes={"advertise_host": "node-1/"}), "nodes.advertise_host", "without scheme"),
    ],
)  # fmt: skip
def test_a_contradiction_is_found(settings: Settings, first_name: str, reason: str) -> None:
    (fault,) = find_faults(settings)
    assert fault.names[0] == first_name
    assert reason in fault.reason
    assert SECRET not in fault.reason


def test_only_a_midm_server_repeats_the_reply() -> None:
    llm = {"server_url": "http://x", "reply_max_chars": 200_000, "provider": "openai"}
    assert list(find_faults(changed(llm=llm))) == []


def test_an_explicit_embedded_model_may_stand_beside_a_server() -> None:
    assert list(find_faults(changed(llm={"provider": "embedded", "server_url": "http://x"}))) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "api.localhost"])
def test_this_machine_only_is_no_risk(host: str) -> None:
    assert find_risks(changed(server={"host": host})) == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_listening_wider_without_keys_is_a_risk(host: str) -> None:
    (risk,) = find_risks(changed(server={"host": host}))
    assert host in risk
    assert "CHATBOT_API_KEYS" in risk
    assert find_risks(changed(server={"host": host}, auth={"keys": {"phone": SECRET}})) == ()


def test_names_may_be_those_of_keys_that_only_the_log_has() -> None:
    names = {"auditors": ("eve",), "admins": ("root",), "front_ends": ("webui",), "require_keys": True}
    assert list(find_faults(changed(auth=names))) == []


def test_a_local_service_that_any_page_may_call_is_a_risk_and_an_open_one_still_is_one() -> None:
    (risk,) = find_risks(changed(server={"cors_origins": ("*",)}))
    assert "any web page" in risk
    (seed,) = find_risks(changed(server={"cors_origins": ("*",), "host": "0.0.0.0"}))
    assert "any web page" in seed
    assert "0.0.0.0" in seed
    assert find_risks(changed(server={"cors_origins": ("*",)}, auth={"keys": {"phone": SECRET}})) == ()


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("chatbot.db", "chatbot.db"),
        ("/var/lib/chat.db", "/var/lib/chat.db"),
        ("sqlite:///chat.db", "chat.db"),
        ("sqlite:///./data/chat.db", "data/chat.db"),
        ("sqlite:////var/lib/chat.db", "/var/lib/chat.db"),
        ("my chat's log.db", "my chat's log.db"),
        ("./odd:name.db", "odd:name.db"),
        ("대화.db", "대화.db"),
        ("cost$.db", "cost$.db"),
        ("data/~old/chat.db", "data/~old/chat.db"),
    ],
)
def test_a_database_url_names_a_file(url: str, path: str) -> None:
    assert parse_database_url(url) == Path(path)


def test_a_database_url_may_name_a_postgresql_database() -> None:
    assert parse_database_url("postgresql://me:hidden@host/chat") == "postgresql://me:hidden@host/chat"
    settings = DatabaseSettings(url="postgres://me:hidden@host:5433/chat?sslmode=require")
    assert (settings.is_postgres, settings.shown) == (True, "postgres://host:5433/chat")
    assert settings.projections == Path("projections.db")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://host/db", "no store speaks mysql://"),
        ("postgresql://host", "names no database"),
        ("sqlite+aiosqlite:///chat.db", r"no store speaks sqlite\+aiosqlite://"),
        ("sqlite://chat.db", "three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///chat.db?mode=ro", "options"),
        ("sqlite:///:memory:", "keeps nothing"),
        (":memory:", "keeps nothing"),
        ("data/", "names no file"),
        (" ", "names no file"),
        ("chat.db\n", "white space"),
        (" chat.db", "white space"),
        ('"chat.db"', "quotes around it"),
        ("'sqlite:///chat.db'", "quotes around it"),
        ("\u201cchat.db\u201d", "quotes around it"),
        ('chat.db"', "a quote at one end"),
        ('sqlite:///"chat.db"', "a quote at one end"),
        ("sqlite:///'chat.db", "a quote at one end"),
        ("chat\tdb", "cannot be seen"),
        ("chat\0.db", "cannot be seen"),
        ("\ufeffchat.db", "cannot be seen"),
        ("file:chat.db", "no store speaks file:; write the file's path alone"),
        ("file:///data/chat.db?mode=rwc", "no store speaks file://; write the file's path alone"),
        ("sqlite:chat.db", "three slashes"),
        ("sqlite3:///chat.db", "no store speaks sqlite3://; write the file's path alone"),
        ("SQLite:///chat.db", "no store speaks SQLite://; write the file's path alone"),
        ("sqlite+pysqlite:///chat.db", "write the file's path alone"),
        ("jdbc:sqlite:chat.db", "no store speaks jdbc:"),
        ("postgresql+asyncpg://me@host/chat", r"no store speaks postgresql\+asyncpg://; write postgresql://"),
        ("Postgres://me@host/chat", "write postgresql://"),
        ("postgres:me@host/chat", "write postgresql://"),
        ("host=localhost dbname=chat", "write them as a URL"),
        ("postgresql://me@host/chat'", "a quote at one end"),
        ("postgresql://${DB_USER}@host/chat", "variables are not replaced"),
        ("~/chat.db", "a ~ is not replaced"),
        ("~me/chat.db", "a ~ is not replaced"),
        ("sqlite:///~/chat.db", "a ~ is not replaced"),
        ("$HOME/chat.db", "variables are not replaced"),
        ("sqlite:///$HOME/chat.db", "variables are not replaced"),
        ("data/${NAME}.db", "variables are not replaced"),
        ("$(pwd)/chat.db", "variables are not replaced"),
        ("/{{ data }}/chat.db", "variables are not replaced"),
        ("${DATABASE_URL}", "a variable that nobody has replaced"),
        ("DATABASE_URL=chat.db", "give the value alone"),
        ("chat.db?mode=rwc", "options"),
        ("chat.db?", "options"),
        ("file::memory:?cache=shared", "keeps nothing"),
    ],
)
def test_another_database_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_database_url(url)


def test_the_projections_lie_beside_the_log() -> None:
    assert DatabaseSettings(url="sqlite:////data/chat.db").projections == Path("/data/projections.db")
    assert DatabaseSettings(projections_path="/fast/p.db").projections == Path("/fast/p.db")


def test_nodes_that_only_their_own_machine_reaches_are_a_risk_where_others_may_share_the_log() -> None:
    shared = {"url": "postgresql://db.example.org/chatbot"}
    assert any("nodes.listen_host" in risk for risk in find_hints(changed(database=shared)))
    reached = {"listen_host": "10.0.0.5", "secret": SECRET}
    assert not any("nodes." in risk for risk in find_hints(changed(database=shared, nodes=reached)))
    named = {"listen_host": "0.0.0.0", "advertise_host": "node-1.example.org", "secret": SECRET}
    settings = changed(database=shared, nodes=named)
    assert list(find_faults(settings)) == []
    assert not any("nodes." in risk for risk in find_hints(settings))
