"""What the README and the seed's README show works as printed; what they name is there."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from chatbot.config.show import markdown_table
from tests.support.documents import TEXTS, anchors, blocks, links, name_of, section
from tests.support.model_server import ModelServer
from tests.support.parts import needs
from tests.support.service import ROOT, Program, frames, program

README = TEXTS[ROOT / "README.md"]
PRINTED_URL = "http://127.0.0.1:8080"
NEXT = "=== next ==="
LINES_MAX = 250

# From the README of the server that this one replaces; only the port is another.
SEED_PYTHON = """
import httpx
import json

# 1. 세션 생성
async with httpx.AsyncClient() as client:
    session_response = await client.post("http://localhost:8080/api/sessions")
    session_id = session_response.json()["session_id"]
    
    # 2. 채팅 요청
    chat_response = await client.post("http://localhost:8080/api/chat", json={
        "session_id": session_id,
        "message": "안녕하세요!"
    })
    print(chat_response.json()["content"])
"""  # noqa: W293  as printed
SEED_CURL = r"""
# 세션 생성
SESSION_ID=$(curl -X POST http://localhost:8080/api/sessions | jq -r .session_id)

# 채팅 요청
curl -X POST http://localhost:8080/api/chat \
  -H "Content-Type: application/json" \
  -d "{
    \"session_id\": \"$SESSION_ID\",
    \"message\": \"안녕하세요!\"
  }"
"""
TOP_LEVEL_AWAIT = """
import ast, asyncio, sys
code = compile(sys.stdin.read(), "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
asyncio.run(eval(code))
"""


async def output_of(*command: str, text: str = "") -> str:
    """What a command writes, given `text`; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    async with asyncio.timeout(30):
        written, complaints = await process.communicate(text.encode())
    assert process.returncode == 0, complaints.decode()
    return written.decode()


async def shell(script: str) -> list[str]:
    """What each part of `script`, parted by NEXT, writes in one shell."""
    written = await output_of("bash", "-euo", "pipefail", text=script.replace(NEXT, f"\necho '{NEXT}'\n"))
    return written.split(f"{NEXT}\n")


@needs("curl")
@needs("jq")
async def test_the_readmes_shell_lines_work_as_printed_and_again_after_a_restart(
    tmp_path: Path, model: ModelServer
) -> None:
    printed = blocks(section("The API"), "sh")
    assert len(printed) == 3
    async with program(tmp_path, model.url) as first:
        script = NEXT.join([*printed, 'echo "$SESSION_ID"']).replace(PRINTED_URL, first.url)
        answered, streamed, history, session_id = await shell(script)
        assert await first.stop() == 0
    answer = json.loads(answered)
    assert answer["content"] == "You said: My name is Mina. Say hello."
    start, *chunks, complete, done = frames(streamed)
    assert (start["type"], start["session_id"]) == ("start", session_id.strip())
    assert "".join(chunk["content"] for chunk in chunks) == complete["full_response"] == "You said: What is my name?"
    assert done == {"type": "done"}
    assert start["cursor"] == "6:0", "the README prints this very id"
    assert history.splitlines() == [
        "user: My name is Mina. Say hello.",
        "assistant: You said: My name is Mina. Say hello.",
        "user: What is my name?",
        "assistant: You said: What is my name?",
    ]
    assert model.requests[-1].body["max_tokens"] == 40
    async with program(tmp_path, model.url) as second:
        again = await shell(f"SESSION_ID={session_id}\n" + printed[2].replace(PRINTED_URL, second.url))
    assert again == [history]


async def test_the_readmes_frames_have_the_fields_that_the_service_sends(tmp_path: Path, model: ModelServer) -> None:
    (printed,) = blocks(section("The API"), "text")
    shown = frames(re.sub(r"\{…\}", "{}", printed))
    async with program(tmp_path, model.url) as running:
        script = NEXT.join(blocks(section("The API"), "sh")[:2]).replace(PRINTED_URL, running.url)
        sent = {frame["type"]: set(frame) for frame in frames((await shell(script))[1])}
    assert {frame["type"]: set(frame) for frame in shown} == sent


async def test_the_readmes_python_works_as_printed(tmp_path: Path, model: ModelServer) -> None:
    (printed,) = blocks(section("The API"), "python")
    async with program(tmp_path, model.url) as running:
        written = await output_of(sys.executable, "-", text=printed.replace(PRINTED_URL, running.url))
    assert written == "You said: 안녕하세요!\n"


async def test_the_seeds_python_works_unchanged(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url) as running:
        example = SEED_PYTHON.replace(":8080", f":{port_of(running)}")
        assert await output_of(sys.executable, "-c", TOP_LEVEL_AWAIT, text=example) == "You said: 안녕하세요!\n"


@needs("curl")
@needs("jq")
async def test_the_seeds_curl_lines_work_unchanged(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url) as running:
        (written,) = await shell(SEED_CURL.replace(":8080", f":{port_of(running)}"))
    answer = json.loads(written)
    assert answer["content"] == "You said: 안녕하세요!"
    assert {"message_id", "role", "content", "created_at", "token_usage"} <= set(answer)


def port_of(running: Program) -> str:
    return running.url.rpartition(":")[2]


def test_the_settings_table_is_the_one_that_the_settings_make() -> None:
    found = re.search(
        r"<!-- settings -->\n(.*?)\n<!-- /settings -->", TEXTS[ROOT / "chatbot/config/README.md"], re.DOTALL
    )
    assert found
    assert found[1] == markdown_table(), "print(chatbot.config.show.markdown_table()) gives the new one"


def named_files() -> list[str]:
    """Paths that the architecture names: in backticks, and in its tree of folders."""
    text = section("Architecture")
    named = re.findall(r"`([\w./]+\.(?:py|toml))`", text)
    (tree,) = blocks(text, "text")
    parent = ""
    for line in tree.splitlines():
        name = line.split()[0]
        if line.startswith(" "):
            named.append(parent + name)
        else:
            parent = name if name.endswith("/") else ""
            named.append(name)
    return named


@pytest.mark.parametrize("name", named_files())
def test_what_the_architecture_names_is_there(name: str) -> None:
    inside = any(path.is_file() for path in ROOT.glob(f"*/**/{name}")) if "/" not in name else False
    assert (ROOT / name).exists() or inside, f"the README names {name}"


def test_the_kinds_of_tests_that_the_architecture_lists_are_there() -> None:
    (kinds,) = re.findall(r"^tests/\s+(.*)$", section("Architecture"), re.MULTILINE)
    for kind in kinds.split(", "):
        assert (ROOT / "tests" / kind).is_dir(), f"the README names tests/{kind}"


@pytest.mark.parametrize("command", ["run.py --help", "run.py config", "-m tests.crash.rounds --help"])
async def test_a_command_that_the_documents_name_runs(command: str) -> None:
    assert command.removesuffix(" --help") in "".join(TEXTS.values())
    assert await output_of(sys.executable, *command.split())


def test_the_projects_readme_is_short() -> None:
    assert README.count("\n") <= LINES_MAX, "the details belong into the README.md of a folder"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(path: Path) -> None:
    for link in links(TEXTS[path]):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{name_of(path)} links to {link}: no such file"
        assert target.is_relative_to(ROOT), f"{name_of(path)} links to {link}, outside of the project"
        assert not anchor or anchor in anchors(target.read_text()), f"{name_of(path)} links to {link}: no such heading"
