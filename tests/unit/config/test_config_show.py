"""Settings are written down once, and what people see is made from that."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from msgspec import convert

import chatbot
from chatbot.config.loader import load
from chatbot.config.settings import Setting, Settings, by_env, inventory
from chatbot.config.settings_listing import markdown_table, show
from chatbot.config.template import template

ROOT = Path(chatbot.__file__).parent.parent
SETTINGS = list(inventory().values())
SECRET = "correct-horse-battery"
UNITS = {"s": "econds", "ms": "illiseconds", "bytes": "bytes", "chars": "characters", "hours": "ours", "kib": "KiB",
         "tokens": "okens"}  # fmt: skip


def test_config_toml_is_what_the_code_makes() -> None:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    assert text == template(), "run: python -m chatbot.config.template > config.toml"


def test_config_toml_holds_every_setting_with_its_default() -> None:
    configuration = load({"config": str(ROOT / "config.toml")}, environment={}, folder=ROOT / "tests")
    assert configuration.settings == Settings()
    left_out = [name for name, origin in configuration.origins.items() if origin == "default"]
    assert left_out == ["llm.servers"]  # an empty array could not be added to by tables further below


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_says_what_it_means_with_its_unit_and_what_is_allowed(setting: Setting) -> None:
    assert re.fullmatch(r"[A-Z*].{15,}\.|console .*\.", setting.description)
    assert setting.allowed
    named = set(setting.key.split("_")) & UNITS.keys()
    assert all(UNITS[unit].lower() in setting.description.lower() for unit in named)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_is_bounded_and_its_default_within_bounds(setting: Setting) -> None:
    assert convert(setting.default, setting.type) == setting.default
    assert type(setting.default).__name__ == {
        "choice": "str", "list": "tuple", "table": "dict", "tables": "tuple",
    }.get(setting.kind, setting.kind)  # fmt: skip
    if setting.kind in {"int", "float"}:
        meta = get_args(setting.type)[1]
        assert meta.le is not None
        assert meta.ge is not None or meta.gt is not None


def test_environment_names_are_distinct_and_the_first_readmes_stand() -> None:
    assert len(by_env()) == len(SETTINGS)
    first = {
        "LLM_SERVER_URL": "http://localhost:8000", "DATABASE_URL": "chatbot.db", "MAX_CONTEXT_MESSAGES": 10,
        "DEFAULT_MAX_TOKENS": 256, "DEFAULT_TEMPERATURE": 0.7, "SESSION_TIMEOUT_HOURS": 24, "HOST": "0.0.0.0",
        "PORT": 8080, "DEBUG": False, "CORS_ORIGINS": ("*",),
    }  # fmt: skip
    ours = {"LLM_SERVER_URL": "", "HOST": "127.0.0.1", "CORS_ORIGINS": ()}  # a fresh machine invites nobody in
    assert {name: by_env()[name].default for name in first} == first | ours
    assert all(name in first or name.startswith("CHATBOT_") for name in by_env())


def test_show_tells_value_and_origin_of_every_setting(tmp_path: Path) -> None:
    lines = show(load({}, environment={"PORT": "9"}, folder=tmp_path)).split("\n")
    assert len([line for line in lines if " = " in line]) == len(SETTINGS)
    assert [line for line in lines if line.startswith("[")] == [f"[{name}]" for name in Settings.__struct_fields__]
    (port,) = [line for line in lines if line.startswith("port ")]
    assert re.fullmatch(r"port += 9 +environment PORT", port)
    assert len({line.index(" = ") for line in lines if " = " in line}) == 1


def test_secrets_are_masked_everywhere(tmp_path: Path) -> None:
    environment = {
        "CHATBOT_API_KEYS": f"phone:{SECRET}",
        "CHATBOT_LLM_API_KEY": SECRET,
        "LLM_SERVER_URL": f"https://me:{SECRET}@host/v1?api-version=1&API_Key={SECRET}",
        "CHATBOT_LLM_PROXY": f"http://me:{SECRET}@proxy:3128",
    }
    configuration = load({}, environment=environment, folder=tmp_path)
    shown = show(configuration)
    assert SECRET not in shown
    assert "phone: ***" in shown
    assert '"https://***@host/v1?api-version=1&API_Key=***"' in shown
    assert '"http://***@proxy:3128"' in shown
    assert SECRET not in repr(configuration)
    assert SECRET not in str(configuration.settings)


def test_a_long_or_broken_value_stays_on_one_printable_line(tmp_path: Path) -> None:
    prompt = "first\nsecond \x1b[31m \udcff" + "x" * 500
    text = show(load({}, environment={"CHATBOT_CHAT_SYSTEM_PROMPT": prompt}, folder=tmp_path))
    (line,) = [line for line in text.split("\n") if line.startswith("system_prompt ")]
    assert "\x1b" not in line
    assert len(line) < 160
    assert line.encode()


def test_the_readmes_table_has_a_row_for_each_setting() -> None:
    rows = markdown_table().split("\n")
    assert len(rows) == len(SETTINGS) + sum(len(setting.columns) for setting in SETTINGS) + 2
    assert "| `server.port` | `8080` | `PORT` | TCP port; 0 takes any free one. |" in rows
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)


def test_the_template_is_toml() -> None:
    assert tomllib.loads(template())["chat"]["default_temperature"] == 0.7
