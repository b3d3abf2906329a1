"""Settings come from the strongest source, and a wrong one stops the start with everything needed to mend it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from chatbot.config.loader import ConfigError, Configuration, load
from chatbot.config.settings import Settings, inventory
from tests.unit.config.test_config_dotenv import SEED

SECRET = "correct-horse-battery"

Options = Mapping[str, str | int | None] | None


def read(folder: Path, options: Options = None, /, **environment: str) -> Configuration:
    return load(options, environment=environment, folder=folder)


def faults(folder: Path, options: Options = None, /, **environment: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(options, environment=environment, folder=folder)
    return caught.value.faults


def test_nothing_configured_means_the_defaults(tmp_path: Path) -> None:
    configuration = read(tmp_path)
    assert configuration.settings == Settings()
    assert set(configuration.origins.values()) == {"default"}
    assert list(configuration.origins) == list(inventory())


def test_each_source_is_stronger_than_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    assert read(tmp_path).settings.server.port == 1
    (tmp_path / ".env").write_text("PORT=2")
    assert read(tmp_path).settings.server.port == 2
    assert read(tmp_path, PORT="3").settings.server.port == 3
    strongest = read(tmp_path, {"port": 4, "host": None}, PORT="3")
    assert strongest.settings.server.port == 4
    assert strongest.origins["server.port"] == "command line --port"
    assert read(tmp_path, PORT="3").origins["server.port"] == "environment PORT"
    assert read(tmp_path).origins["server.port"] == ".env PORT"


def test_the_real_environment_and_the_current_directory_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "4711")
    (tmp_path / ".env").write_text("HOST=127.0.0.9")
    server = load().settings.server
    assert (server.host, server.port) == ("127.0.0.9", 4711)


def test_another_file_can_take_the_place_of_config_toml(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    (tmp_path / "other.toml").write_text("[server]\nhost = '::1'\n")
    configuration = read(tmp_path, {"config": "other.toml"})
    assert configuration.settings.server.host == "::1"
    assert configuration.settings.server.port == 8080
    assert configuration.origins["server.host"] == "other.toml"


def test_a_config_toml_beside_the_program_is_read_where_the_current_directory_has_none(tmp_path: Path) -> None:
    here, program = tmp_path / "here", tmp_path / "program"
    here.mkdir()
    program.mkdir()
    (program / "config.toml").write_text("[server]\nport = 1\n")
    (program / ".env").write_text("HOST=::1\n")
    beside = load(environment={}, folder=here, program=program)
    assert (beside.settings.server.port, beside.settings.server.host) == (1, "127.0.0.1")
    assert beside.origins["server.port"] == str(program / "config.toml")
    (here / "config.toml").write_text("[server]\nport = 2\n")
    (here / ".env").write_text("")
    nearer = load(environment={}, folder=here, program=program)
    assert (nearer.settings.server.port, nearer.origins["server.port"]) == (2, "config.toml")
    assert nearer.files == (here / "config.toml", here / ".env")
    (here / "other.toml").write_text("")
    named = load({"config": "other.toml"}, environment={}, folder=here, program=program)
    assert (named.settings.server.port, named.files) == (8080, (here / "other.toml", here / ".env"))


def test_files_that_were_read_are_told_by_their_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(environment={}).files == ()
    (tmp_path / "config.toml").write_text("")
    assert load(environment={}).files == (tmp_path / "config.toml",)
    assert load({"config": "config.toml"}, environment={}).files == (tmp_path / "config.toml",)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, {"config": "absent.toml"})
    assert fault.startswith("absent.toml: cannot be read")


def test_the_env_file_of_the_first_readme_works(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(SEED, encoding="utf-8")
    settings = read(tmp_path).settings
    assert settings.llm.server_url == "http://localhost:8000"
    assert settings.server.host == "0.0.0.0"
    assert settings.server.cors_origins == ("*",)
    assert settings.sessions.timeout_hours == 24


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("DEBUG", "True", "server.debug", True),
        ("DEBUG", "0", "server.debug", False),
        ("DEBUG", " yes ", "server.debug", True),
        ("PORT", " 0 ", "server.port", 0),
        ("SESSION_TIMEOUT_HOURS", "0.5", "sessions.timeout_hours", 0.5),
        ("SESSION_TIMEOUT_HOURS", "0", "sessions.timeout_hours", 0.0),
        (
            "CORS_ORIGINS",
            "https://a.kr, http://localhost:3000,",
            "server.cors_origins",
            ("https://a.kr", "http://localhost:3000"),
        ),
        ("CORS_ORIGINS", "", "server.cors_origins", ()),
        ("CHATBOT_SERVER_HOSTS", "a.kr, 10.0.0.5,[::7]", "server.hosts", ("a.kr", "10.0.0.5", "[::7]")),
        ("CHATBOT_LLM_PROVIDER", "EMBEDDED", "llm.provider", "embedded"),
        ("CHATBOT_SESSIONS_IDLE_TIMEOUT_S", "5", "sessions.idle_timeout_s", 5.0),
        ("CHATBOT_API_KEYS", f"phone:{SECRET}:x, web:{SECRET}", "auth.keys", {"phone": f"{SECRET}:x", "web": SECRET}),
        ("CHATBOT_AUTH_AUDITORS", "", "auth.auditors", ()),
        ("CHATBOT_CHAT_SYSTEM_PROMPT", "친절하게, 짧게", "chat.system_prompt", "친절하게, 짧게"),
    ],
)
def test_a_text_becomes_its_settings_type(tmp_path: Path, variable: str, text: str, name: str, value: object) -> None:
    section, _, key = name.partition(".")
    found = getattr(getattr(read(tmp_path, **{variable: text}).settings, section), key)
    assert found == value
    assert type(found) is type(value)


def test_auditors_are_names_of_keys(tmp_path: Path) -> None:
    keys = f"mina:{SECRET}, eve:{SECRET}2"
    auth = read(tmp_path, CHATBOT_API_KEYS=keys, CHATBOT_AUTH_AUDITORS="eve,mina").settings.auth
    assert auth.auditors == ("eve", "mina")
    with pytest.raises(ConfigError, match=r'auth.auditors = \["Jun"\] .*the names of keys'):
        read(tmp_path, CHATBOT_API_KEYS=keys, CHATBOT_AUTH_AUDITORS="Jun")


@pytest.mark.parametrize("text", ["", " ", ",", " , ,", "\t"])
@pytest.mark.parametrize("source", ["environment", ".env"])
def test_api_keys_that_are_set_but_empty_stop_the_start(tmp_path: Path, text: str, source: str) -> None:
    """Whether other keys are configured or not: what was meant is not known, and the service might be open to all."""
    (tmp_path / "config.toml").write_text(f"[auth.keys]\nphone = '{SECRET}'\n")
    if source == ".env":
        (tmp_path / ".env").write_text(f"CHATBOT_API_KEYS='{text}'\n")
    (fault,) = faults(tmp_path, **({} if source == ".env" else {"CHATBOT_API_KEYS": text}))
    assert fault.startswith(f"auth.keys = *** ({source} CHATBOT_API_KEYS): it is set but empty")


def test_an_empty_variable_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f"[server]\nport = 1\n[auth.keys]\nphone = '{SECRET}'\n")
    configuration = read(tmp_path, PORT="", DEBUG="")
    assert configuration.settings.server.port == 1
    assert configuration.settings.auth.keys == {"phone": SECRET}


@pytest.mark.parametrize(
    ("variable", "text", "fault"),
    [
        ("PORT", "65536", 'server.port = "65536" (environment PORT): allowed: a whole number from 0 up to 65535'),
        ("PORT", "80.5", 'server.port = "80.5" (environment PORT): allowed: a whole number from 0 up to 65535'),
        ("DEBUG", "maybe", 'server.debug = "maybe" (environment DEBUG): allowed: true or false'),
        ("SESSION_TIMEOUT_HOURS", "-1", "allowed: a number from 0 up to 876000"),
        ("CHATBOT_DATABASE_ERASE_WAIT_S", "0", "allowed: a number above 0, up to 600"),
        ("SESSION_TIMEOUT_HOURS", "nan", "allowed: a number from 0"),
        ("SESSION_TIMEOUT_HOURS", "inf", "allowed: a number from 0"),
        ("MAX_CONTEXT_MESSAGES", "1001", "a whole number from 1 up to 1000"),
        ("CORS_ORIGINS", "https://a.kr/", "allowed: * or scheme://host[:port] each, with no path or slash behind"),
        ("CHATBOT_SERVER_HOSTS", "a.kr:8080", "allowed: * or a host name or address each, such as chat.example.org"),
        ("CHATBOT_SERVER_HOSTS", "https://a.kr", "without a port"),
        ("CHATBOT_SERVER_HOSTS", "a.kr, *.b.kr", "without a port"),
        ("CHATBOT_LLM_PROVIDER", "openia", "allowed: one of auto, midm, openai, embedded"),
        ("LLM_SERVER_URL", "localhost:8000", "allowed: http://host[:port]"),
        ("LLM_SERVER_URL", "ftp://me:hidden@host", 'llm.server_url = "ftp://***@host"'),
        ("CHATBOT_LLM_PROXY", "socks5://me:hidden@host", 'llm.proxy = "socks5://***@host"'),
        ("CHATBOT_LLM_PROXY", "host:3128", "allowed: http://[name:password@]host[:port], none or empty"),
        (
            "DATABASE_URL",
            "mysql://me:hidden@host/db",
            "(environment DATABASE_URL): no store speaks mysql://; allowed:",
        ),
        ("CHATBOT_API_KEYS", "hidden", "auth.keys = *** (environment CHATBOT_API_KEYS): pair 1 has no colon; allowed:"),
        ("CHATBOT_API_KEYS", "a:hidden,a:hidden", "pair 2 has the name of an earlier one"),
        (
            "CHATBOT_SESSIONS_ACTIVEMAX",
            "5",
            "(environment): no such setting; did you mean CHATBOT_SESSIONS_ACTIVE_MAX?",
        ),
        ("CHATBOT_LLM_SERVER_URL", "x", "did you mean LLM_SERVER_URL?"),
        ("CHATBOT_SERVER_PORT", "1", "did you mean PORT?"),
        (
            "CHATBOT_API_KEY",
            "a:hidden",
            "CHATBOT_API_KEY = *** (environment): no such setting; did you mean CHATBOT_API_KEYS?",
        ),
        ("CHATBOT_FOO", "1", "no such setting; `chatbot config` lists them all"),
    ],
)
def test_a_wrong_variable_is_told_with_its_value_and_what_is_allowed(
    tmp_path: Path, variable: str, text: str, fault: str
) -> None:
    (found,) = faults(tmp_path, **{variable: text})
    assert fault in found
    assert "hidden" not in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[server]\nprot = 1", "server.prot = 1 (config.toml): no such setting; did you mean server.port?"),
        ("[server]\ntimeout_hours = 1", "did you mean sessions.timeout_hours?"),
        ("port = 1", "port = 1 (config.toml): no such setting; did you mean server.port?"),
        ("[servr]\nport = 1", "[servr] (config.toml): no such section; did you mean server?"),
        ("[server]\nport = '1'", 'server.port = "1" (config.toml): allowed: a whole number'),
        ("[server]\nport = true", "server.port = true (config.toml): allowed: a whole number"),
        ("[server]\nport = 2024-01-01", "server.port = 2024-01-01 (config.toml)"),
        ("[llm]\napi_kye = 'hidden'", "llm.api_kye = *** (config.toml): no such setting; did you mean llm.api_key?"),
        ("[llm]\napi_key = ['hidden']", "llm.api_key = *** (config.toml)"),
        ("[server", "config.toml: cannot be read: "),
    ],
)
def test_a_wrong_line_of_config_toml_is_told(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    (found,) = faults(tmp_path)
    assert fault in found
    assert "hidden" not in found


def test_all_faults_of_all_sources_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = -1\n[chat]\nmax_context_messages = 0")
    (tmp_path / ".env").write_text("DATABASE_URI=x.db\nDEBUG='open")
    found = faults(tmp_path, {"host": "a b"}, DEFAULT_TEMPERATURE="3", CHATBOT_EMBEDDED_TREADS="2")
    assert len(found) == 6
    assert any(fault == ".env: line 2: DEBUG: the quote ' is not closed on its line" for fault in found)


def test_the_error_reads_as_a_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^2 settings are wrong:\n  server\.\w+ = .*\n  server\.\w+ = "):
        read(tmp_path, PORT="x", DEBUG="x")
    with pytest.raises(ConfigError, match=r"^1 setting is wrong:\n  "):
        read(tmp_path, PORT="x")


def test_a_wrong_value_counts_even_where_a_stronger_source_overrides_it(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = -1")
    assert len(faults(tmp_path, PORT="1")) == 1


def test_settings_that_contradict_each_other_are_told_with_both_origins(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[chat]\nmax_tokens_ceiling = 100")
    (fault,) = faults(tmp_path, DEFAULT_MAX_TOKENS="200")
    assert fault.startswith(
        "chat.default_max_tokens = 200 (environment DEFAULT_MAX_TOKENS), chat.max_tokens_ceiling = 100 (config.toml): "
    )


def test_a_wrong_setting_is_not_held_against_others(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[chat]\nmax_tokens_ceiling = 100")
    (fault,) = faults(tmp_path, DEFAULT_MAX_TOKENS="none")
    assert "environment DEFAULT_MAX_TOKENS" in fault


def test_foreign_names_pass_in_dotenv_but_slips_do_not(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "COMPOSE_PROJECT_NAME=x\nPORTS=1\nHOSTNAME=x\nMAX_TOKENS=9\nDATABASE_PASSWORD=x\nLLM_SEVER_URL=http://x"
    )
    (fault,) = faults(tmp_path)
    assert fault == 'LLM_SEVER_URL = "http://x" (.env): no such setting; did you mean LLM_SERVER_URL?'


def test_variables_that_a_cluster_sets_for_a_service_called_chatbot_pass(tmp_path: Path) -> None:
    links = {
        "CHATBOT_SERVICE_HOST": "10.0.0.1",
        "CHATBOT_SERVICE_PORT": "80",
        "CHATBOT_SERVICE_PORT_HTTP": "80",
        "CHATBOT_PORT": "tcp://10.0.0.1:80",
        "CHATBOT_PORT_80_TCP": "tcp://10.0.0.1:80",
        "CHATBOT_PORT_80_TCP_ADDR": "10.0.0.1",
        "CHATBOT_BACKEND_PORT_80_TCP_PROTO": "tcp",
        "CHATBOT_PORT_8080_TCP_PORT_START": "8080",
        "CHATBOT_NODES_LISTEN_PORT": "tcp://10.0.0.2:80",  # of a service called chatbot-nodes-listen
        "CHATBOT_NAME": "/web/chatbot",
        "CHATBOT_ENV_PATH": "/usr/bin",
        "CHATBOT_DB_NAME": "/chatbot/chatbot-db",
        "CHATBOT_DB_PORT": "udp://172.17.0.5:5432",
        "CHATBOT_DB_ENV_POSTGRES_PASSWORD": "x",
    }
    assert read(tmp_path, **links).settings == Settings()
    (tmp_path / ".env").write_text("\n".join(f"{name}={text}" for name, text in links.items()))
    assert read(tmp_path).settings == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CHATBOT_PORT", "80"),
        ("CHATBOT_PORT", "http://x"),
        ("CHATBOT_NODES_LISTEN_PORT", "x"),
        ("CHATBOT_SERVER_PORT_MAX", "1"),
        ("CHATBOT_NAME", "bot"),
        ("CHATBOT_ENV_PATH", "/usr/bin"),
    ],
)
def test_a_variable_that_only_looks_like_a_link_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (fault,) = faults(tmp_path, **{name: text})
    assert name in fault


def test_a_folder_called_dotenv_is_no_settings_file(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert read(tmp_path).settings == Settings()


def test_files_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff")
    (tmp_path / ".env").write_bytes(b"A=\xff")
    assert [fault.split(":")[0] for fault in faults(tmp_path)] == ["config.toml", ".env"]


def test_debug_lowers_the_log_level(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[logging]\nlevel = 'warning'")
    configuration = read(tmp_path, DEBUG="true")
    assert configuration.settings.logging.level == "debug"
    assert configuration.origins["logging.level"] == "server.debug, environment DEBUG"
    assert read(tmp_path, DEBUG="false").settings.logging.level == "warning"
