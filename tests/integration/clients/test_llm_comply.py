"""The tester llm-comply, in its formats for chat completions and responses, finds no fault and warns of nothing."""

import json
from pathlib import Path

import pytest

from tests.support.model.model_server import ModelServer
from tests.support.model.scenario_model import ScenarioModel
from tests.support.programs.client_tools import FOLDER, run_tool
from tests.support.programs.openai_clients import SECRET, address_of, needs_openai_clients
from tests.support.service import started

pytestmark = [pytest.mark.real_part, needs_openai_clients]
# All but those of compaction, which is refused by name.
RESPONSES = (
    "basic-response,streaming-response,streaming-usage,system-prompt,tool-calling,image-input,multi-turn,"
    "assistant-phase,response-output-phase-schema,error-handling"
)
FORMS = [("openai-chat", (), 9), ("open-responses", ("--filter", RESPONSES), 10)]
REASONER = "deepseek-r-of-tests"  # by its name the tester takes it for a model that reasons


@pytest.mark.parametrize(("form", "filters", "least"), FORMS, ids=lambda one: one if isinstance(one, str) else "")
async def test_llm_comply_finds_no_fault(
    tmp_path: Path, model: ModelServer, form: str, filters: tuple[str, ...], least: int
) -> None:
    model.model = REASONER
    model.choose = ScenarioModel().choose
    folder = tmp_path / "tester"
    folder.mkdir()
    async with started(tmp_path, model.url, CHATBOT_API_KEYS=f"tester:{SECRET}") as service:
        written = await run_tool(
            folder, FOLDER / "clients" / "bin" / "llm-comply", "--format", form, *filters, "--json", "--verbose",
            "--base-url", f"{address_of(service)}/v1", "--api-key", SECRET, "--model", REASONER,
        )  # fmt: skip
    report = json.loads(written[written.index("{") :])
    results = {one["id"]: one for one in report["results"]}
    assert len(results) >= least
    assert {one["status"] for one in results.values()} == {"passed"}, written
    warnings = [warning for one in results.values() for warning in one.get("warnings", ())]
    assert not warnings, written
