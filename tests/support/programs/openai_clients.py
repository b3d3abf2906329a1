"""Unmodified clients of OpenAI's API against the service: each runs its cases in one process of its own interpreter and
prints their results; what the model server was asked and what the service recorded are collected with them.
"""

import base64
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.model.model_server import ModelServer, Request
from tests.support.model.scenario_model import ScenarioModel, text_of
from tests.support.programs.client_tools import FOLDER, NODE_PACKAGES, run_tool
from tests.support.service import Running, started

SCRIPTS = Path(__file__).resolve().parents[1] / "clients"
CONVERSATIONS = ("", "stateless", "task")  # the kinds of sessions
SECRET = "a-secret-of-the-clients"
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)
IMAGE = f"data:image/png;base64,{base64.b64encode(DOT).decode()}"
LLM_MODELS = """
- {{model_id: chatbot, model_name: fake-model, {common}}}
- {{model_id: chatbot-named, model_name: fake-model, headers: {{X-Conversation-Id: from-llm}}, {common}}}
- {{model_id: chatbot-missing, model_name: no-such-model, {common}}}
"""
LLM_COMMON = "api_base: '{url}/v1', api_key_name: chatbot, supports_schema: true, supports_tools: true, vision: true"

needs_openai_clients = pytest.mark.skipif(
    not (FOLDER / "clients-older" / "bin" / "python").exists() or not (NODE_PACKAGES / "ai").exists(),
    reason="CLIENT_TOOLS names no folder that .ci/client-tools has filled",
)


@dataclass(frozen=True)
class ClientRun:
    """`results` by case; `requests` that the model server got; `sessions` with their `messages`, and their `kind`."""

    results: dict[str, Any]
    requests: list[Request]
    sessions: list[dict[str, Any]]

    def asked(self, question: str) -> list[Request]:
        """The requests whose newest message is this question."""
        return [each for each in self.requests if text_of(each.body["messages"][-1]) == question]

    def conversations(self) -> list[dict[str, Any]]:
        return [session for session in self.sessions if not session["kind"]]


async def run_client(
    folder: Path, script: str, environment: str = "clients", *, folder_of_scripts: str = "openai"
) -> ClientRun:
    """Run the script `script` of that folder in tests/support/clients: Python in that environment of CLIENT_TOOLS, or
    Node.
    """
    async with ModelServer() as model:
        model.choose = ScenarioModel().choose
        settings = {"CHATBOT_API_KEYS": f"clients:{SECRET}", "CHATBOT_LLM_RETRIES_MAX": "0"}
        async with started(folder, model.url, **settings) as service:
            address = address_of(service)
            printed = await run_script(folder, script, environment, address, folder_of_scripts=folder_of_scripts)
            results = json.loads(printed.splitlines()[-1])
            if "abandoned" in results:
                await model.wait_aborted()
            return ClientRun(results, model.requests, await recorded(service))


def address_of(service: Running) -> str:
    return str(service.client.base_url).rstrip("/")


async def run_script(
    folder: Path, script: str, environment: str, address: str, *, folder_of_scripts: str = "openai"
) -> str:
    """What the script prints."""
    made = folder / "client"
    made.mkdir()
    shutil.copy(SCRIPTS / folder_of_scripts / script, made)
    (made / "node_modules").symlink_to(NODE_PACKAGES)
    (made / "dot.png").write_bytes(DOT)
    (made / "keys.json").write_text(json.dumps({"chatbot": SECRET}))
    (made / "extra-openai-models.yaml").write_text(LLM_MODELS.format(common=LLM_COMMON.format(url=address)))
    program = "node" if script.endswith(".mjs") else FOLDER / environment / "bin" / "python"
    return await run_tool(
        made, program, script,
        SERVICE=address, KEY=SECRET, OPENAI_BASE_URL=f"{address}/v1", OPENAI_API_KEY=SECRET,
        MODEL="fake-model", IMAGE=IMAGE,
        IMAGE_FILE=str(made / "dot.png"), LLM_USER_PATH=str(made),
    )  # fmt: skip


async def recorded(service: Running) -> list[dict[str, Any]]:
    """All sessions of the clients."""
    service.client.headers["Authorization"] = f"Bearer {SECRET}"
    sessions = []
    for kind in CONVERSATIONS:
        answer = await service.client.get("/api/sessions", params={"limit": 100, **({"kind": kind} if kind else {})})
        assert answer.status_code == 200, answer.text
        for session in answer.json()["sessions"]:
            history = await service.history(session["session_id"])
            sessions.append({**session, "kind": kind, "messages": history["messages"]})
    return sessions
