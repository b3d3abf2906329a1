"""Generators of clients, a tester of API descriptions, and clients of OpenAI's API: `.ci/client-tools FOLDER` installs
them, and CLIENT_TOOLS names the folder.
"""

import asyncio
import os
from pathlib import Path

import pytest

from tests.support.nightly import TIMES

FOLDER = Path(os.environ.get("CLIENT_TOOLS") or "/nowhere")
NODE_PACKAGES, PYTHON = FOLDER / "node_modules", FOLDER / "python" / "bin"
TIMEOUT_S = 240.0 * TIMES  # a nightly run asks more

needs_client_tools = pytest.mark.skipif(
    not (PYTHON / "schemathesis").exists(), reason="CLIENT_TOOLS names no folder that .ci/client-tools has filled"
)


async def run_tool(folder: Path, *command: object, **environment: str) -> str:
    """Run a program in `folder`; returns what it wrote. Raises AssertionError with that where it fails."""
    path = os.pathsep.join([str(PYTHON), str(NODE_PACKAGES / ".bin"), os.environ.get("PATH", "")])
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), "NO_COLOR": "1", "LANG": "C.UTF-8", **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{command[0]} failed:\n{written.decode(errors='replace')}"
    return written.decode()
