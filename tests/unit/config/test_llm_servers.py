"""Several model servers are an array of tables: each fault in it is named by its path, and no secret is shown."""

import json
import tomllib
from pathlib import Path

import pytest

from chatbot.config.loader import ConfigError, load
from chatbot.config.sections.llm_server import LlmServer
from chatbot.config.settings_listing import markdown_table, show
from chatbot.config.template import template

SECRET = "a-secret-nobody-may-see"
A = {"name": "a", "url": "http://a:8000"}
B = {"name": "b", "url": "http://b:8000", "key": SECRET, "models": ["m*"], "weight": 2, "concurrency": 4}


def faults(folder: Path, text: str = "", **variables: str) -> tuple[str, ...]:
    (folder / "config.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load({}, environment=variables, folder=folder)
    assert SECRET not in str(refused.value)
    return refused.value.faults


def test_servers_come_from_tables_of_the_file(tmp_path: Path) -> None:
    text = f"""
        [llm]
        reply_timeout_s = 60
        [[llm.servers]]
        name = "a"
        url = " http://a:8000 "
        [[llm.servers]]
        name = "b"
        url = "http://b:8000"
        key = "{SECRET}"
        models = ["m*"]
        weight = 2
        concurrency = 4
    """
    (tmp_path / "config.toml").write_text(text)
    servers = load({}, environment={}, folder=tmp_path).settings.llm.servers
    second = LlmServer(name="b", url="http://b:8000", key=SECRET, models=("m*",), weight=2.0, concurrency=4)
    assert servers == (LlmServer(name="a", url="http://a:8000"), second)
    assert SECRET not in repr(servers)


def test_servers_come_from_a_variable_as_json(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[[llm.servers]]\nname = "other"\nurl = "http://other"\n')
    variables = {"CHATBOT_LLM_SERVERS": json.dumps([A, B])}
    configuration = load({}, environment=variables, folder=tmp_path)
    assert [server.name for server in configuration.settings.llm.servers] == ["a", "b"]
    assert configuration.origins["llm.servers"] == "environment CHATBOT_LLM_SERVERS"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ulr": SECRET}, "llm.servers[1].ulr = *** (environment CHATBOT_LLM_SERVERS): no such setting; did you mean"),
        ({"token": SECRET}, "llm.servers[1].token = *** (environment CHATBOT_LLM_SERVERS): no such setting; it has"),
        ({"url": "gpu:8000"}, 'llm.servers[1].url = "gpu:8000" (environment CHATBOT_LLM_SERVERS): allowed: http://'),
        ({"url": f"ftp://me:{SECRET}@gpu"}, 'llm.servers[1].url = "ftp://***@gpu" ('),
        ({"key": f"'{SECRET}'"}, "llm.servers[1].key = *** (environment CHATBOT_LLM_SERVERS): there are quotes"),
        ({"key": f"{SECRET}é"}, "llm.servers[1].key = *** (environment CHATBOT_LLM_SERVERS): it has characters that"),
        ({"protocol": "embedded"}, 'llm.servers[1].protocol = "embedded" (environment CHATBOT_LLM_SERVERS): allowed:'),
        ({"weight": 0}, "llm.servers[1].weight = 0 (environment CHATBOT_LLM_SERVERS): allowed: a number above 0"),
        ({"models": "m"}, 'llm.servers[1].models = "m" (environment CHATBOT_LLM_SERVERS): allowed: a list of names'),
        ({"models": ["a*b"]}, 'llm.servers[1].models = ["a*b"] (environment CHATBOT_LLM_SERVERS): allowed: a list of'),
        ({"name": "GPU 1"}, 'llm.servers[1].name = "GPU 1" (environment CHATBOT_LLM_SERVERS): allowed: 1 to 32'),
        ({"name": "a"}, 'llm.servers[1].name = "a" (environment CHATBOT_LLM_SERVERS): an earlier server has this name'),
    ],
)
def test_a_fault_names_the_table_and_its_field(change: dict[str, object], expected: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, CHATBOT_LLM_SERVERS=json.dumps([A, B | change]))
    assert fault.startswith(expected), fault


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    found = faults(tmp_path, '[[llm.servers]]\nname = "a"\n[[llm.servers]]\nurl = "http://b"\nkye = 1\n')
    assert found[0].startswith("llm.servers[0].url (config.toml): missing; allowed: http://")
    assert found[1] == "llm.servers[1].kye = *** (config.toml): no such setting; did you mean llm.servers[1].key?"
    assert found[2].startswith("llm.servers[1].name (config.toml): missing")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[llm.servers]\nname = "a"\n', "each is a table [[llm.servers]]"),
        ('[llm]\nservers = ["http://a"]\n', "each is a table [[llm.servers]]"),
    ],
)
def test_what_is_no_array_of_tables_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, text)
    assert fault.startswith("llm.servers = *** (config.toml): ")
    assert reason in fault


def test_a_variable_that_is_no_json_is_refused_without_its_text(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, CHATBOT_LLM_SERVERS=f"{{{SECRET}")
    assert fault.startswith("llm.servers = *** (environment CHATBOT_LLM_SERVERS): it is no JSON")


@pytest.mark.parametrize(
    ("name", "value"),
    [("LLM_SERVER_URL", "http://x"), ("CHATBOT_LLM_API_KEY", SECRET), ("CHATBOT_LLM_PROVIDER", "embedded")],
)
def test_what_belongs_to_one_server_is_refused_beside_several(name: str, value: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, CHATBOT_LLM_SERVERS=json.dumps([A, B]), **{name: value})
    assert "with several servers each has a " in fault


def test_a_model_that_no_server_has_is_refused(tmp_path: Path) -> None:
    tables = json.dumps([A | {"models": ["small"]}, B])
    (fault,) = faults(tmp_path, CHATBOT_LLM_SERVERS=tables, CHATBOT_LLM_MODEL="large")
    assert "none of the servers has this model" in fault
    for model in ("small", "m-7b"):
        load({}, environment={"CHATBOT_LLM_SERVERS": tables, "CHATBOT_LLM_MODEL": model}, folder=tmp_path)


def test_the_listing_has_each_field_and_masks_keys(tmp_path: Path) -> None:
    configuration = load({}, environment={"CHATBOT_LLM_SERVERS": json.dumps([A, B])}, folder=tmp_path)
    lines = {
        line.split(" = ")[0].strip(): line.split(" = ")[1] for line in show(configuration).splitlines() if " = " in line
    }
    assert lines["servers"].startswith("2 below")
    assert lines["servers[1].url"].startswith('"http://b:8000"')
    assert lines["servers[1].key"].startswith("***")
    assert SECRET not in show(configuration)


def test_the_example_of_the_template_can_be_uncommented() -> None:
    text = template()
    table = text[text.index("# [[llm.servers]]") : text.index("[embedded]")]
    example = "\n".join(line.removeprefix("# ") for line in table.splitlines())
    assert tomllib.loads(text.replace(table, f"{example}\n"))["llm"]["servers"][0]["name"] == "gpu-1"
    assert "| `llm.servers[].url` | required |" in markdown_table()
