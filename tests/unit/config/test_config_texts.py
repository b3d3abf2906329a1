"""Texts of settings that are nearly right are trimmed or refused, whatever source they come from."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.config.loader import ConfigError, load
from chatbot.config.settings import inventory
from chatbot.config.sources import parse_text, parse_toml
from chatbot.config.text_checks import host_mistake, path_mistake, strip_texts, text_mistake

SECRET = "correct-horse-battery"
TEXTS = {
    "DATABASE_URL": "chat.db",
    "CHATBOT_DATABASE_PROJECTIONS_PATH": "p.db",
    "HOST": "127.0.0.1",
    "LLM_SERVER_URL": "http://model:8000",
    "CHATBOT_LLM_MODEL": "a-model",
    "CHATBOT_LLM_API_KEY": SECRET,
    "CHATBOT_NODES_SECRET": SECRET,
    "CHATBOT_NODES_LISTEN_HOST": "127.0.0.1",
    "CHATBOT_API_KEYS": f"phone:{SECRET}",
    "CORS_ORIGINS": "http://page",
}


def value_of(name: str, text: str, folder: Path) -> object:
    (setting,) = (one for one in inventory().values() if one.env == name)
    settings = load({}, environment={name: text}, folder=folder).settings
    return getattr(getattr(settings, setting.section), setting.key)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("around", [("", "\n"), ("", " "), (" ", ""), ("\t", "\r\n"), ("\u00a0", "")])
def test_white_space_around_a_text_is_dropped(name: str, around: tuple[str, str], tmp_path: Path) -> None:
    before, after = around
    assert value_of(name, f"{before}{TEXTS[name]}{after}", tmp_path) == value_of(name, TEXTS[name], tmp_path)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("form", ['"{}"', "'{}'", "{}\u200b", "one\n{}", "${{VALUE}}", "NAME={}", '""', "$VALUE"])
def test_what_a_shell_left_in_a_text_is_refused(name: str, form: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        value_of(name, form.format(TEXTS[name]).replace("NAME=", f"{name}="), tmp_path)
    assert SECRET not in str(refused.value)


def test_a_quoted_secret_of_a_pair_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quotes around it") as refused:
        value_of("CHATBOT_API_KEYS", f'phone:"{SECRET}"', tmp_path)
    assert SECRET not in str(refused.value)


def test_texts_of_the_file_are_held_to_the_same(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[auth]\nkeys = {{ phone = "{SECRET} " }}\n[database]\nurl = " chat.db"\n')
    settings = load({}, environment={}, folder=tmp_path).settings
    assert (settings.auth.keys, settings.database.url) == ({"phone": SECRET}, "chat.db")
    file.write_text('[database]\nurl = \'"chat.db"\'\n[llm]\nmodel = "${MODEL}"\n')
    with pytest.raises(ConfigError) as refused:
        load({}, environment={}, folder=tmp_path)
    assert len(refused.value.faults) == 2


def test_prose_is_taken_as_it_is() -> None:
    prompt = ' "Be kind."\nAnswer in two lines. '
    setting = inventory()["chat.system_prompt"]
    assert parse_toml(setting, prompt) == parse_text(setting, prompt) == prompt


def test_secrets_may_hold_what_only_looks_like_a_slip() -> None:
    secrets = (
        "pa$word-with-dollar",
        "$ecret-password",
        'ends-with-a-quote"',
        "{brace}$",
        "a=b",
        "JBSWY3DPEHPK3PXP====",
    )
    for secret in secrets:
        assert text_mistake(secret, "CHATBOT_NODES_SECRET") is None


@given(st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1))
def test_words_pass(text: str) -> None:
    assert text_mistake(text, "DATABASE_URL") is None
    assert path_mistake(f"data/{text}.db") is None


@pytest.mark.parametrize("host", ["", "localhost", "node-1.example.org", "my_db", "::1", "fe80::1%eth0", "10.0.0.5"])
def test_hosts_pass(host: str) -> None:
    assert host_mistake(host) is None


def test_only_texts_are_trimmed() -> None:
    assert strip_texts([" a ", 3, {" b ": [" c "]}]) == ["a", 3, {"b": ["c"]}]
