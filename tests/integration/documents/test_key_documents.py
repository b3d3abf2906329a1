"""The commands in chatbot/keys/README.md, as printed: the first key, then changes through the running service."""

import json
import os
import sys
from pathlib import Path

from tests.integration.documents.test_readme import PRINTED_URL, output_of
from tests.support.documents import TEXTS, blocks
from tests.support.model.model_server import ModelServer
from tests.support.service import ROOT, environment, program

DOCUMENT = TEXTS[ROOT / "chatbot/keys/README.md"]


async def test_the_commands_on_keys_work_as_printed(tmp_path: Path, model: ModelServer) -> None:
    first, later = blocks(DOCUMENT, "sh")
    settings = {**environment(tmp_path, model.url), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    root, *listed = (await shell(f"{first}\necho $ROOT_KEY", settings))[::-1]
    assert listed[0].split()[:3] == ["root", "valid", "admin"]
    async with program(tmp_path, model.url) as service:
        script = f"export ROOT_KEY={root}\n{later.replace(PRINTED_URL, service.url)}"
        added, rotated, *views = await shell(script, settings)
    assert added.startswith("cb_")
    assert rotated.startswith("cb_")
    (app,) = [view for view in map(json.loads, views) if view["name"] == "app"]
    assert (app["status"], app["scopes"]) == ("revoked", ["chat", "metrics"])


async def shell(script: str, settings: dict[str, str]) -> list[str]:
    """The lines that `script` writes to standard output."""
    return (await output_of("bash", "-euo", "pipefail", text=script, **settings)).splitlines()
