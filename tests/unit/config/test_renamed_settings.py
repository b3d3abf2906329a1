"""A renamed setting works by its old name until 1.0, in every source, and each use of an old name is reported."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import chatbot
from chatbot.config.loader import ConfigError, Configuration, load
from chatbot.config.settings import by_env, by_former_env, by_former_name, closest_env, closest_name, inventory
from chatbot.config.settings_listing import renamed_table
from chatbot.config.sources import to_toml

ROOT = Path(chatbot.__file__).parent.parent
OLD, NEW = "nodes.suspect_s", "nodes.failure_timeout_s"
OLD_ENV, NEW_ENV = "CHATBOT_NODES_SUSPECT_S", "CHATBOT_NODES_FAILURE_TIMEOUT_S"

Write = Callable[[Path, dict[str, str]], dict[str, str]]


def write_config(folder: Path, values: dict[str, str]) -> dict[str, str]:
    lines = [f"{name.partition('.')[2]} = {value}" for name, value in values.items()]
    (folder / "config.toml").write_text("\n".join(("[nodes]", *lines)))
    return {}


def write_dotenv(folder: Path, values: dict[str, str]) -> dict[str, str]:
    lines = [f"CHATBOT_{name.replace('.', '_').upper()}={value}" for name, value in values.items()]
    (folder / ".env").write_text("\n".join(lines))
    return {}


def environment(_: Path, values: dict[str, str]) -> dict[str, str]:
    return {f"CHATBOT_{name.replace('.', '_').upper()}": value for name, value in values.items()}


def configured(folder: Path, write: Write, values: dict[str, str]) -> Configuration:
    return load({}, environment=write(folder, values), folder=folder)


every_source = pytest.mark.parametrize(
    ("write", "named"),
    [
        (write_config, f"config.toml {OLD}"),
        (write_dotenv, f".env {OLD_ENV}"),
        (environment, f"environment {OLD_ENV}"),
    ],
)


@every_source
def test_an_old_name_sets_the_value_and_is_reported(tmp_path: Path, write: Write, named: str) -> None:
    configuration = configured(tmp_path, write, {OLD: "3.5"})
    assert configuration.settings.nodes.failure_timeout_s == 3.5
    assert configuration.origins[NEW] == named
    source, _, old = named.rpartition(" ")
    new = NEW if old == OLD else NEW_ENV
    assert configuration.renamed == (f"{old} ({source}) is now {new}; the old name works until 1.0",)


@every_source
@pytest.mark.parametrize("names", [(OLD, NEW), (NEW, OLD)])
def test_both_names_with_one_value_are_reported(
    tmp_path: Path, write: Write, named: str, names: tuple[str, str]
) -> None:
    configuration = configured(tmp_path, write, dict.fromkeys(names, "3.5"))
    assert configuration.settings.nodes.failure_timeout_s == 3.5
    assert [sentence.partition(" ")[0] for sentence in configuration.renamed] == [named.rpartition(" ")[2]]


@every_source
@pytest.mark.parametrize("names", [(OLD, NEW), (NEW, OLD)])
def test_both_names_with_different_values_are_a_fault_that_names_both(
    tmp_path: Path, write: Write, named: str, names: tuple[str, str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, write, dict(zip(names, ("3.5", "4"), strict=True)))
    (fault,) = caught.value.faults
    assert named in fault
    assert NEW in fault
    assert "gives this setting another value" in fault


def test_a_stronger_source_wins_whichever_name_it_uses(tmp_path: Path) -> None:
    write_config(tmp_path, {NEW: "3.5"})
    assert load({}, environment={OLD_ENV: "4"}, folder=tmp_path).settings.nodes.failure_timeout_s == 4
    write_config(tmp_path, {OLD: "3.5"})
    configuration = load({}, environment={NEW_ENV: "4"}, folder=tmp_path)
    assert configuration.settings.nodes.failure_timeout_s == 4
    assert configuration.renamed == (f"{OLD} (config.toml) is now {NEW}; the old name works until 1.0",)


def test_new_names_are_not_reported(tmp_path: Path) -> None:
    write_config(tmp_path, {NEW: "3.5"})
    assert load({}, environment={NEW_ENV: "4"}, folder=tmp_path).renamed == ()


def test_a_wrong_value_by_an_old_name_is_refused_with_both_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, environment={OLD_ENV: "never"}, folder=tmp_path)
    (fault,) = caught.value.faults
    assert fault.startswith(f'{NEW} = "never" (environment {OLD_ENV}): allowed: ')


@pytest.mark.parametrize(("old", "setting"), by_former_name().items())
def test_every_old_name_and_variable_works(tmp_path: Path, old: str, setting: object) -> None:
    renamed = by_former_name()[old]
    section, _, key = old.partition(".")
    (tmp_path / "config.toml").write_text(f"[{section}]\n{key} = {to_toml(renamed.default)}")
    assert load({}, environment={}, folder=tmp_path).origins[renamed.name] == f"config.toml {old}"
    variable = f"CHATBOT_{section.upper()}_{key.upper()}"
    text = renamed.default if isinstance(renamed.default, str) else to_toml(renamed.default)
    assert load({}, environment={variable: text}, folder=tmp_path).origins[renamed.name] == f"environment {variable}"


def test_no_old_name_is_a_name_again_or_is_proposed() -> None:
    assert not by_former_name().keys() & inventory().keys()
    assert not by_former_env().keys() & by_env().keys()
    assert all(closest_name(old) in {None, *inventory()} for old in by_former_name())
    assert all(closest_env(old) in {None, *by_env()} for old in by_former_env())


def test_the_readme_has_the_table_of_old_names_and_no_other_document_uses_them() -> None:
    text = (ROOT / "chatbot/config/README.md").read_text(encoding="utf-8")
    assert f"<!-- renamed -->\n{renamed_table()}\n<!-- /renamed -->" in text, "print(renamed_table()) gives the new one"
    documents = [path for path in ROOT.rglob("*.md") if not path.relative_to(ROOT).parts[0].startswith(".")]
    files = [
        *documents,
        ROOT / "config.toml",
        *(path for path in (ROOT / "chatbot/deploy").rglob("*") if path.is_file()),
    ]
    old_names = re.compile("|".join(rf"(?<![\w.]){re.escape(old)}\b" for old in (*by_former_name(), *by_former_env())))
    for path in files:
        if path.name != "CHANGELOG.md":
            document = path.read_text(encoding="utf-8").partition("<!-- renamed -->")[0]
            assert not old_names.findall(document), path
