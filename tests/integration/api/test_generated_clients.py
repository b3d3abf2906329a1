"""/openapi.json with the tools that people give it to: generated clients compile and work."""

import shutil
from pathlib import Path

import pytest

from tests.support.programs.client_tools import NODE_PACKAGES, needs_client_tools, run_tool
from tests.support.service import Running

pytestmark = [pytest.mark.real_part, pytest.mark.timeout(300), needs_client_tools]  # compilers on a busy machine
CLIENTS = Path(__file__).resolve().parents[2] / "support" / "clients"
OUTPUT = [
    "You said: 안녕하세요!",
    "You said: What is my name? stop",
    "202 36",
    "example T",
    "1",
    "user: 안녕하세요!",
    "assistant: You said: 안녕하세요!",
    "/problems/session-not-found 404",
]
COMPILED = ("--strict", "--target", "es2022", "--module", "commonjs", "--moduleResolution", "node10")


async def write_document(service: Running, path: Path) -> None:
    path.write_text((await service.client.get("/openapi.json")).text)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """Where a client is made."""
    made = tmp_path / "client"
    made.mkdir()
    return made


async def test_a_typescript_client_compiles_without_a_cast_and_works(folder: Path, service: Running) -> None:
    await write_document(service, folder / "openapi.json")
    (folder / "node_modules").symlink_to(NODE_PACKAGES)
    shutil.copy(CLIENTS / "calls.ts", folder)
    (folder / "node.d.ts").write_text("declare const process: { argv: string[] };\n")
    await run_tool(folder, "openapi-typescript", "openapi.json", "-o", "api.d.ts")
    await run_tool(folder, "tsc", *COMPILED, "--skipLibCheck", "calls.ts", "node.d.ts")
    written = await run_tool(folder, "node", "calls.js", service.client.base_url)
    assert written.splitlines() == OUTPUT


async def test_a_python_client_compiles_without_a_cast_and_works(folder: Path, service: Running) -> None:
    await write_document(service, folder / "openapi.json")
    shutil.copy(CLIENTS / "calls.txt", folder / "calls.py")
    await run_tool(
        folder, "openapi-python-client", "generate", "--path", "openapi.json", "--meta", "none", "--output-path",
        "client", "--fail-on-warning",
    )  # fmt: skip
    await run_tool(folder, "mypy", "--strict", "--follow-imports=silent", "calls.py")
    written = await run_tool(folder, "python", "calls.py", service.client.base_url)
    assert written.splitlines() == OUTPUT
