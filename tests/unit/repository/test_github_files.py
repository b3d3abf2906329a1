"""The workflow, the issue forms and the checks before a commit are well formed and name what exists."""

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest
import yaml

from chatbot.config.settings import inventory
from tests.support.service import ROOT

GITHUB = ROOT / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]

TEXT = {"type": "string", "minLength": 1}
FIELD = {
    "type": "object",
    "required": ["type", "id", "attributes"],
    "additionalProperties": False,
    "properties": {
        "type": {"enum": ["textarea", "input", "dropdown"]},
        "id": {"type": "string", "pattern": "^[a-z]+$"},
        "attributes": {
            "type": "object",
            "required": ["label"],
            "additionalProperties": False,
            "properties": {
                "label": TEXT,
                "description": TEXT,
                "render": TEXT,
                "options": {"type": "array", "items": TEXT, "minItems": 2, "uniqueItems": True},
            },
        },
        "validations": {"type": "object", "properties": {"required": {"type": "boolean"}}, "required": ["required"]},
    },
}
PARAGRAPH = {
    "type": "object",
    "required": ["type", "attributes"],
    "properties": {"type": {"const": "markdown"}, "attributes": {"properties": {"value": TEXT}, "required": ["value"]}},
}
FORM = {
    "type": "object",
    "required": ["name", "description", "body"],
    "additionalProperties": False,
    "properties": {
        "name": TEXT,
        "description": TEXT,
        "labels": {"type": "array", "items": TEXT},
        "body": {"type": "array", "minItems": 1, "items": {"anyOf": [FIELD, PARAGRAPH]}},
    },
}
STEP = {
    "type": "object",
    "properties": {"uses": {"type": "string", "pattern": r"^[\w-]+/[\w-]+@v\d+$"}, "run": TEXT, "with": {}},
    "oneOf": [{"required": ["uses"]}, {"required": ["run"]}],
    "additionalProperties": False,
}
WORKFLOW = {
    "type": "object",
    "required": ["name", "permissions", "jobs"],
    "properties": {
        "permissions": {"const": {"contents": "read"}},
        "jobs": {
            "additionalProperties": {
                "required": ["runs-on", "timeout-minutes", "strategy", "steps"],
                "properties": {"timeout-minutes": {"type": "integer"}, "steps": {"type": "array", "items": STEP}},
            }
        },
    },
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_well_formed(path: Path) -> None:
    form = read(path)
    jsonschema.validate(form, FORM)
    ids = [field["id"] for field in form["body"] if "id" in field]
    assert len(ids) == len(set(ids))
    assert any(field.get("validations", {}).get("required") for field in form["body"])
    for field in form["body"]:
        assert (field["type"] == "dropdown") == ("options" in field["attributes"])


def test_the_workflow_runs_on_every_python_that_the_package_names() -> None:
    workflow = read(GITHUB / "workflows" / "ci.yml")
    jsonschema.validate(workflow, WORKFLOW)
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    systems = {name: job["runs-on"].partition("-")[0] for name, job in workflow["jobs"].items()}
    assert systems == {"linux": "ubuntu", "macos": "macos"}
    for job in workflow["jobs"].values():
        assert job["strategy"]["matrix"] == {"python": PYTHONS}


def test_commands_for_contributors_name_files_that_exist_and_tools_that_are_installed() -> None:
    workflow = read(GITHUB / "workflows" / "ci.yml")
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    contributing = (GITHUB / "CONTRIBUTING.md").read_text()
    hooks = [hook["entry"] for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    text = "\n".join((*steps, *hooks, *re.findall(r"^```sh\n(.*?)^```$", contributing, re.MULTILINE | re.DOTALL)))
    for path in re.findall(r"(?<![\w./-])(?:tests|\.ci)/[\w.]+", text):
        assert (ROOT / path).exists(), path
    installed = "\n".join((*PROJECT["optional-dependencies"]["lint"], *PROJECT["optional-dependencies"]["test"]))
    provided = {"lint-imports": "import-linter", "python": "pytest", "pip": "pytest", "pre-commit": "pytest"}
    tools = set(re.findall(r"\.venv/bin/([\w-]+)", text))
    assert {"ruff", "mypy", "lint-imports", "python"} <= tools
    for tool in tools:
        assert re.search(rf"^{provided.get(tool, tool)}>=", installed, re.MULTILINE), tool
    for extras in re.findall(r"-e '\.\[([\w,]+)\]'", text):
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_checks_before_a_commit_are_those_of_ci() -> None:
    hooks = read(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    wanted = {"ruff check", "ruff format", "mypy", "lint-imports"}
    assert {
        " ".join(hook["entry"].removeprefix(".venv/bin/").split()[:2]).removesuffix(" --force-exclude")
        for hook in hooks
    } == wanted
    decides = (ROOT / ".ci" / "run").read_text()
    assert all(re.search(rf"^ +{command}\b", decides, re.MULTILINE) for command in wanted)


def test_files_that_contributors_are_told_of_exist() -> None:
    text = (GITHUB / "CONTRIBUTING.md").read_text()
    names = re.findall(r"`((?:tests|chatbot|events|projections)/[\w./]+|\w+\.(?:md|toml))`", text)
    assert len(names) >= 4
    for name in names:
        assert (ROOT / name).exists(), name


def test_the_threat_model_names_tests_and_settings_that_exist() -> None:
    text = (GITHUB / "SECURITY.md").read_text()
    model = text.partition("## Threat model")[2]
    tests = re.findall(r"`((?:[a-z0-9_]+/)+[a-z0-9_]+(?:\.py)?)`", model)
    assert len(tests) > 20
    assert [one for one in tests if not (ROOT / "tests" / one).exists()] == []
    named = re.findall(r"`((?:auth|server|nodes|llm)\.[a-z_]+)", model)
    assert named
    assert [one for one in named if one not in inventory()] == []
