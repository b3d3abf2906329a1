"""The files in chatbot/deploy and .github name sources, commands and settings that exist, and start nothing unsafe."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from chatbot.cli.command_line import parse
from chatbot.config.loader import ConfigError, Configuration, load
from chatbot.config.sections.server_settings import ServerSettings
from chatbot.observability.metrics import Metrics
from tests.support.service import ROOT

DEPLOY = ROOT / "chatbot" / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECRET = "a-secret-of-a-test"
STOP_SLACK_S = 10.0  # beyond the stages of a drain: closing the log, a machine that is busy


def settings_from(environment: dict[str, str], folder: Path) -> Configuration:
    """As a service reads them that has no settings but these. Raises ConfigError."""
    return load({}, environment=environment, folder=folder)


def drain_s(server: ServerSettings) -> float:
    return server.drain_pause_s + server.drain_grace_s + server.stream_close_timeout_s


def exec_form(arguments: str) -> list[str]:
    """The words of a command that no shell reads. Raises ValueError for one that a shell reads."""
    words = json.loads(arguments)
    assert isinstance(words, list)
    return words


def check_command(words: list[str]) -> str:
    """The name of the command, which must be one of the installed program's."""
    program, *arguments = words
    assert Path(program).name in PROJECT["scripts"]
    return str(parse(arguments, "0").command)


# the image


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continuation lines joined."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def values_of(name: str) -> list[str]:
    found = [arguments for instruction, arguments in instructions() if instruction == name]
    assert found, name
    return found


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for arguments in values_of("ENV") for pair in shlex.split(arguments))


def test_every_source_of_the_image_exists_and_is_sent_to_the_builder() -> None:
    sent = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    sources = [
        source
        for arguments in values_of("COPY")
        if not arguments.startswith("--from=")
        for source in arguments.split()[:-1]
    ]
    for source in sources:
        assert (ROOT / source).exists(), source
    assert sorted(sources) == sorted(sent)


def test_the_image_has_what_the_package_is_built_from() -> None:
    sent = {*(ROOT / ".dockerignore").read_text().splitlines()}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for needed in (*build["only-include"], *build["force-include"], PROJECT["readme"], *PROJECT["license-files"]):
        whole = (f"!{folder}" for folder in Path(needed).parents)
        assert f"!{needed}" in sent or not sent.isdisjoint(whole)
    for stated in values_of("ARG"):
        name, _, value = stated.partition("=")
        assert name != "EXTRAS" or not value or set(value.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_image_runs_without_root_and_without_a_shell() -> None:
    user, _, group = values_of("USER")[-1].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    entrypoint, (command,) = exec_form(values_of("ENTRYPOINT")[-1]), values_of("CMD")
    assert check_command([*entrypoint, *exec_form(command)]) == "serve"
    check = values_of("HEALTHCHECK")[-1].partition(" CMD ")[2]
    assert check_command(exec_form(check)) == "health"
    assert values_of("STOPSIGNAL") == ["SIGTERM"]
    assert values_of("VOLUME") == [values_of("WORKDIR")[-1]] == ["/data"]


def test_the_image_serves_other_machines_only_with_api_keys(tmp_path: Path) -> None:
    environment = image_environment()
    settings = settings_from({**environment, "CHATBOT_API_KEYS": f"owner:{SECRET}"}, tmp_path).settings
    assert settings.auth.require_keys  # looked at when the log is open, as it may have keys, too
    assert settings.server.host == "0.0.0.0"
    assert values_of("EXPOSE") == [str(settings.server.port)]


# the compose file


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def given(text: str, **variables: str) -> str:
    """`text` with variables put in as Compose does. Raises KeyError for one that must be set and is not."""

    def value(found: re.Match[str]) -> str:
        name, sign, rest = found[1], found[2], found[3]
        return variables[name] if sign == ":?" else variables.get(name) or rest

    return re.sub(r"\$\{(\w+)(:\?|:-)([^}]*)\}", value, text)


def test_compose_gives_each_reader_a_key_of_its_own_and_starts_with_none_missing(tmp_path: Path) -> None:
    stated = compose()["services"]["chatbot"]["environment"]
    secrets = {"CHATBOT_SECRET": SECRET, "PROMETHEUS_SECRET": SECRET[::-1]}
    for missing in secrets:
        with pytest.raises(KeyError, match=missing):
            [given(text, **{name: secrets[name] for name in secrets if name != missing}) for text in stated.values()]
    environment = {**image_environment(), **{name: given(text, **secrets) for name, text in stated.items()}}
    assert settings_from(environment, tmp_path).settings.auth.keys == {"owner": SECRET, "prometheus": SECRET[::-1]}


def test_compose_publishes_on_this_machine_only_and_gives_no_rights(tmp_path: Path) -> None:
    stated = compose()
    for service in stated["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert {volume.split(":")[0] for volume in service["volumes"] if volume[0] != "."} <= set(stated["volumes"])
    ours = stated["services"]["chatbot"]
    assert ours["read_only"] is True
    assert ours["cap_drop"] == ["ALL"]
    assert f"data:{values_of('VOLUME')[0]}" in ours["volumes"]
    assert (DEPLOY / ours["build"]["context"] / ours["build"]["dockerfile"]).is_file()
    server = settings_from({}, tmp_path).settings.server
    assert int(ours["stop_grace_period"].removesuffix("s")) >= drain_s(server) + STOP_SLACK_S


def test_prometheus_finds_its_files_its_secret_and_the_service() -> None:
    stated, config = compose(), yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    service = stated["services"]["prometheus"]
    folder = DEPLOY / next(volume for volume in service["volumes"] if volume[0] == ".").split(":")[0]
    assert all((folder / name).is_file() for name in ("prometheus.yml", *config["rule_files"]))
    (job,) = config["scrape_configs"]
    (secret,) = service["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert secret in stated["secrets"]
    host, _, port = job["static_configs"][0]["targets"][0].partition(":")
    assert (host in stated["services"], port) == (True, values_of("EXPOSE")[0])


def test_alerts_name_metrics_that_exist() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    families = {family.name: family.type for family in Metrics("0").registry.collect()}
    known = {f"{name}_total" if kind == "counter" else name for name, kind in families.items()}
    known |= {f"{name}_bucket" for name, kind in families.items() if kind == "histogram"}
    known |= {"chatbot_writer_up"}  # of all processes of a machine together: metrics_aggregation.py
    named = {name for rule in rules for name in re.findall(r"\bchatbot_\w+", rule["expr"])}
    assert named <= known, named - known


# systemd


def unit() -> dict[str, str]:
    """The unit's settings, by name. Each is there once."""
    lines = [line for line in (DEPLOY / "chatbot.service").read_text().splitlines() if line and line[0] not in "#["]
    pairs = [line.split("=", 1) for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(map(tuple, pairs))  # type: ignore[arg-type]


def test_the_unit_serves_as_a_user_without_rights_and_waits_for_the_drain(tmp_path: Path) -> None:
    stated = unit()
    assert check_command(stated["ExecStart"].split()) == "serve"
    assert (stated["Type"], stated["KillMode"], stated["Restart"]) == ("notify", "mixed", "always")
    assert stated["User"] == stated["Group"] == "chatbot"
    assert stated["CapabilityBoundingSet"] == ""
    assert stated["WorkingDirectory"] == f"/var/lib/{stated['StateDirectory']}"
    server = settings_from({}, tmp_path).settings.server
    assert int(stated["TimeoutStopSec"].removesuffix("s")) >= drain_s(server) + STOP_SLACK_S
    assert int(stated["LimitNOFILE"]) > server.connections_max


def test_the_units_example_of_settings_starts_only_once_it_has_a_key(tmp_path: Path) -> None:
    lines = (DEPLOY / "environment.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and line[0] != "#")
    required = dict([unit()["Environment"].split("=", 1)])
    with pytest.raises(ConfigError, match="CHATBOT_API_KEYS"):
        settings_from({**required, **example}, tmp_path)
    settings = settings_from({**required, **example, "CHATBOT_API_KEYS": f"owner:{SECRET}"}, tmp_path).settings
    assert settings.auth.require_keys
    assert settings.llm.server_url
    for proxy in ("nginx.conf", "Caddyfile"):
        assert settings.server.hosts[0] in (DEPLOY / proxy).read_text()


# the page next to them


def test_the_page_names_every_file_and_every_file_it_names_exists() -> None:
    page = (DEPLOY / "README.md").read_text()
    for file in set(DEPLOY.iterdir()) - {DEPLOY / "README.md"}:
        assert file.name in page, file
    for name in re.findall(r"`((?:tests|prometheus|chatbot)/[\w./]+)`", page):
        assert (DEPLOY / name).exists() or (ROOT / name).exists(), name
    for name in re.findall(r"chatbot/deploy/([\w.]+)", page):
        assert (DEPLOY / name).exists(), name
