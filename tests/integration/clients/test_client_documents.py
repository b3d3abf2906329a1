"""The table of clients and the settings of clients in chatbot/api/README.md."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from chatbot.config.sections.v1_settings import V1Settings
from tests.integration.clients.expectations import CLIENTS, table
from tests.support.documents import TEXTS, marked, section
from tests.support.model.model_server import ModelServer
from tests.support.programs.client_tools import FOLDER, NODE_PACKAGES, run_tool
from tests.support.programs.openai_clients import SECRET, address_of, needs_openai_clients
from tests.support.service import ROOT, started

README = "chatbot/api/README.md"
PRINTED = {"url": "http://localhost:8080", "secret": "a-long-secret", "model": "SmolLM2-135M-Instruct"}
ANSWER = "You said: My name is Mina. Say hello.\n"
ASK_LLM = """
import llm
print(llm.get_model("chatbot").prompt("My name is Mina. Say hello.").text())
"""


def test_the_table_is_made_from_the_tests() -> None:
    assert table() in section("OpenAI's API", README), f"the table has to be:\n{table()}"


def test_the_versions_are_those_that_are_installed() -> None:
    installed = (ROOT / ".ci" / "client-tools").read_text()
    for client in CLIENTS:
        for package in client.packages:
            assert f" {package}" in installed, package
    for package in re.findall(r"`(@?[a-z/-]+)` (\d+\.\d+\.\d+)", section("Vercel's AI SDK and AG-UI", README)):
        assert re.search(" {}(@|==){} ".format(*package), installed.replace("\n", " ")), package
    version = re.search(r"llm-comply==([\d.]+)", installed)
    assert version
    assert f"llm-comply {version[1]} " in TEXTS[ROOT / README]


def test_the_headers_in_the_settings_are_those_that_the_service_reads() -> None:
    named = {name.lower() for name in V1Settings().conversation_fields}
    read = named | set(re.findall(r"x-openwebui-[a-z-]+", source_of_v1().lower()))
    shell = marked("client settings: open webui")
    assignments = [word for word in shlex.split(shell, comments=True) if "=" in word]
    environment = dict(word.split("=", 1) for word in assignments)
    configured = json.loads(environment["OPENAI_API_CONFIGS"])["0"]["headers"]
    (librechat,) = yaml.safe_load(marked("client settings: librechat"))["endpoints"]["custom"]
    assert {header.lower() for header in (*configured, *librechat["headers"])} <= read
    assert json.loads(environment["DEFAULT_MODEL_PARAMS"]) == {"function_calling": "legacy"}
    assert librechat["baseURL"] == environment["OPENAI_API_BASE_URLS"] == f"{PRINTED['url']}/v1"


def source_of_v1() -> str:
    files = [*(ROOT / "chatbot" / "api").rglob("*.py")]
    return "".join(path.read_text() for path in files)


@needs_openai_clients
@pytest.mark.real_part
async def test_the_settings_of_clients_work_as_printed(tmp_path: Path, model: ModelServer) -> None:
    folder = tmp_path / "clients"
    folder.mkdir()
    (folder / "node_modules").symlink_to(NODE_PACKAGES)
    async with started(tmp_path, model.url, CHATBOT_API_KEYS=f"clients:{SECRET}") as service:

        def printed(mark: str) -> str:
            here = {"url": address_of(service), "secret": SECRET, "model": model.model}
            text = marked(f"client settings: {mark}")
            for name, value in PRINTED.items():
                text = text.replace(value, here[name])
            return text

        (folder / "chain.py").write_text(printed("langchain"))
        (folder / "sdk.mjs").write_text(printed("ai sdk"))
        (folder / "chat.mjs").write_text(printed("ai sdk chat"))
        (folder / "agent.mjs").write_text(printed("ag-ui"))
        (folder / "extra-openai-models.yaml").write_text(printed("llm"))
        (folder / "keys.json").write_text(json.dumps({"chatbot": SECRET}))
        (folder / "ask.py").write_text(ASK_LLM)
        python = FOLDER / "clients" / "bin" / "python"
        assert await run_tool(folder, python, "chain.py") == ANSWER
        assert await run_tool(folder, "node", "sdk.mjs") == ANSWER
        assert await run_tool(folder, "node", "chat.mjs") == ANSWER
        assert await run_tool(folder, "node", "agent.mjs") == ANSWER
        assert await run_tool(folder, python, "ask.py", LLM_USER_PATH=str(folder)) == ANSWER
    assert len(model.requests) == 5
