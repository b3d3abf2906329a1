"""Unmodified clients of OpenAI's responses and conversations: what they get from the service."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clients.response_expectations import CLIENTS, EXPECTED, table
from tests.support.documents import marked, section
from tests.support.model.model_server import ModelServer
from tests.support.model.scenario_model import ScenarioModel
from tests.support.programs.client_tools import FOLDER, run_tool
from tests.support.programs.openai_clients import SECRET, address_of, needs_openai_clients, run_script
from tests.support.service import ROOT, started

MODEL = "fake-model"
Results = dict[str, dict[str, Any] | BaseException]
CASES = [(client, case) for client in CLIENTS for case in EXPECTED if case not in client.lacks]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All clients at the same time, with one service and one model server."""
    return asyncio.run(run_all(tmp_path_factory))


async def run_all(folders: pytest.TempPathFactory) -> Results:
    async with ModelServer() as model:
        model.choose = ScenarioModel().choose
        keys = {"CHATBOT_API_KEYS": f"clients:{SECRET}"}
        async with started(folders.mktemp("service"), model.url, **keys) as service:
            address = address_of(service)
            runs = (run_script(folders.mktemp("client"), one.script, one.environment, address) for one in CLIENTS)
            written = await asyncio.gather(*runs, return_exceptions=True)
    shown = (one if isinstance(one, BaseException) else json.loads(one.splitlines()[-1]) for one in written)
    return dict(zip((one.name for one in CLIENTS), shown, strict=True))


@pytest.mark.real_part
@pytest.mark.timeout(240)
@needs_openai_clients
@pytest.mark.parametrize(("client", "case"), CASES, ids=lambda one: one if isinstance(one, str) else one.name)
def test_a_client_gets_what_its_program_expects(results: Results, client: Any, case: str) -> None:
    """Clients that show less leave members out; those that they show are as expected."""
    run = results[client.name]
    if isinstance(run, BaseException):
        raise run
    shown, expected = run[case], client.differs.get(case, EXPECTED[case])
    common = {name: value for name, value in shown.items() if name in expected}
    assert common, shown
    assert common == {name: expected[name] for name in common}, shown


def test_the_table_of_responses_is_made_from_the_tests() -> None:
    assert table() in section("OpenAI's API", "chatbot/api/README.md"), f"the table has to be:\n{table()}"


def test_the_versions_are_those_that_are_installed() -> None:
    installed = (ROOT / ".ci" / "client-tools").read_text()
    for client in CLIENTS:
        for package in client.packages:
            assert f" {package}" in installed, package


@pytest.mark.real_part
@needs_openai_clients
async def test_the_client_in_the_document_works_as_printed(tmp_path: Path, model: ModelServer) -> None:
    async with started(tmp_path, model.url, CHATBOT_API_KEYS=f"clients:{SECRET}") as service:
        text = marked("responses client: python")
        here = {"http://localhost:8080": address_of(service), "a-long-secret": SECRET, "SmolLM2-135M-Instruct": MODEL}
        for printed, name in here.items():
            text = text.replace(printed, name)
        (tmp_path / "client.py").write_text(text)
        written = await run_tool(tmp_path, FOLDER / "clients" / "bin" / "python", "client.py")
    assert written == "You said: My name is Mina. Say hello.\n"
