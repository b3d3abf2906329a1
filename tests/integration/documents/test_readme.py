"""What the README and the seed's README show works as printed; what they name is there."""

import asyncio
import contextlib
import importlib.util
import io
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from chatbot.cli.command_line import COMMANDS, SERVICE_COMMANDS, parse
from chatbot.config.settings import by_former_env, inventory
from chatbot.config.settings_listing import markdown_table
from tests.support.documents import FENCED, FOLDERS, TEXTS, anchors, blocks, links, name_of, section
from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import requires_program
from tests.support.service import ROOT, Program, frames, program

README = TEXTS[ROOT / "README.md"]
PRINTED_URL = "http://127.0.0.1:8080"
NEXT = "=== next ==="
# The blocks of code in the documents, by language. Before a number here grows, write the test that runs the new block.
TESTED_BLOCKS = {
    ("README.md", "sh"): 5,  # the test command by .ci/run, the quick start as far as it is the same, three here
    ("README.md", "python"): 1,
    ("chatbot/anchors/README.md", "toml"): 2,  # test_anchors_in_documents.py
    ("chatbot/anchors/README.md", "sh"): 1,  # commands and options here, what they do in test_anchors_*.py
    ("chatbot/api/README.md", "js"): 4,  # test_readme_clients.py, test_client_documents.py
    (
        "chatbot/api/README.md",
        "python",
    ): 3,  # test_readme_clients.py, test_*_documents.py, test_responses_clients.py
    ("chatbot/api/README.md", "sh"): 1,  # test_client_documents.py
    ("chatbot/api/README.md", "yaml"): 2,  # test_client_documents.py
    (
        "chatbot/cli/README.md",
        "sh",
    ): 6,  # commands here; test_erase_*.py, test_redact_*.py, test_audit_walk.py
    ("chatbot/cli/README.md", "python"): 2,  # test_readme_auditors.py, test_commands_project.py
    ("chatbot/deploy/README.md", "sh"): 3,  # test_deploy.py
    ("chatbot/holds/README.md", "sh"): 1,  # actions and options here, what they do in test_hold_and_receipt_commands.py
    ("chatbot/keys/README.md", "sh"): 2,  # test_key_documents.py
    (
        "chatbot/nodes/README.md",
        "sh",
    ): 2,  # settings and options here; test_nodes.py, test_workers.py
    ("chatbot/llm/README.md", "toml"): 1,  # test_several_servers.py
    ("chatbot/llm/README.md", "python"): 1,  # test_model_server_in_documents.py
    ("chatbot/nodes/README.md", "nginx"): 1,  # test_nginx.py
    ("events/README.md", "ini"): 1,  # test_postgres_pooler.py
    ("events/README.md", "python"): 1,  # test_log_service.py
    ("tests/README.md", "sh"): 1,  # modules and options here
}
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


async def output_of(*command: str, text: str = "", **environment: str) -> str:
    """What a command writes, given `text`; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )
    async with asyncio.timeout(30):
        written, complaints = await process.communicate(text.encode())
    assert process.returncode == 0, complaints.decode()
    return written.decode()


async def shell(script: str) -> list[str]:
    """What each part of `script`, parted by NEXT, writes in one shell."""
    written = await output_of("bash", "-euo", "pipefail", text=script.replace(NEXT, f"\necho '{NEXT}'\n"))
    return written.split(f"{NEXT}\n")


@requires_program("curl")
@requires_program("jq")
async def test_the_readmes_shell_lines_work_as_printed_and_again_after_a_restart(
    tmp_path: Path, model: ModelServer
) -> None:
    printed = blocks(section("First conversation"), "sh")
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
        again = await shell(f"SESSION_ID={session_id}\nURL={second.url}\n{printed[2]}")
    assert again == [history]


async def test_the_readmes_frames_have_the_fields_that_the_service_sends(tmp_path: Path, model: ModelServer) -> None:
    (printed,) = blocks(section("First conversation"), "text")
    shown = frames(re.sub(r"\{…\}", "{}", printed))
    async with program(tmp_path, model.url) as running:
        script = NEXT.join(blocks(section("First conversation"), "sh")[:2]).replace(PRINTED_URL, running.url)
        sent = {frame["type"]: set(frame) for frame in frames((await shell(script))[1])}
    assert {frame["type"]: set(frame) for frame in shown} == sent


async def test_the_readmes_python_works_as_printed(tmp_path: Path, model: ModelServer) -> None:
    (printed,) = blocks(section("First conversation"), "python")
    async with program(tmp_path, model.url) as running:
        written = await output_of(sys.executable, "-", text=printed, URL=running.url)
    assert written == "You said: 안녕하세요!\n"


async def test_the_seeds_python_works_unchanged(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url) as running:
        example = SEED_PYTHON.replace(":8080", f":{port_of(running)}")
        assert await output_of(sys.executable, "-c", TOP_LEVEL_AWAIT, text=example) == "You said: 안녕하세요!\n"


@requires_program("curl")
@requires_program("jq")
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
    assert found[1] == markdown_table(), "print(chatbot.config.settings_listing.markdown_table()) gives the new one"


PATH = re.compile(r"`([\w.*-][\w./*-]*(?:\.(?:py|toml|png|ts)|/))`")


def tree_of(text: str) -> list[str]:
    """The paths in the map of the code, which indents what a folder holds."""
    found: list[str] = []
    parent = ""
    for line in text.splitlines():
        name = line.split()[0]
        found.append(parent + name if line.startswith(" ") else name)
        if not line.startswith(" "):
            parent = name if name.endswith("/") else ""
    return found


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_files_that_a_document_names_are_there(path: Path) -> None:
    """From the project's root or the document's folder; a bare name anywhere, as it is unique within a package."""
    named = PATH.findall(TEXTS[path])
    if path == ROOT / "README.md":
        named += tree_of(blocks(section("Map of the code"), "text")[0])
    names = {file.name for folder in FOLDERS for file in (ROOT / folder).rglob("*")}
    missing = [name for name in named if name not in names and not exists(name, path.parent)]
    assert not missing, f"{name_of(path)} names files that do not exist"


def exists(name: str, folder: Path) -> bool:
    return any(next(place.glob(name), None) is not None for place in (ROOT, folder))


def test_each_change_in_the_readme_names_a_file_that_holds_what_is_to_change() -> None:
    rows = [row for row in section("Where to change what").splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 14
    for row in rows:
        found = re.match(r"\| [^|]+ \| `([\w.]+)` \| `([\w/]+\.(?:py|js))`", row)
        assert found, f"a change, an identifier, a file: {row}"
        identifier, name = found.groups()
        assert re.search(rf"\b{identifier}\b", (ROOT / name).read_text()), f"{name} has no {identifier}"


def test_the_kinds_of_tests_that_the_map_lists_are_there() -> None:
    (kinds,) = re.findall(r"^tests/\s+(.*)$", section("Map of the code"), re.MULTILINE)
    for kind in kinds.split(", "):
        assert (ROOT / "tests" / kind).is_dir(), f"the README names tests/{kind}"


@pytest.mark.parametrize("command", ["run.py --help", "run.py config", "-m tests.crash.rounds --help"])
async def test_a_command_that_the_documents_name_runs(command: str) -> None:
    assert await output_of(sys.executable, *command.split())


def test_each_command_and_option_that_the_documents_name_is_understood() -> None:
    unknown = [line for line in named_commands() if not understood(line.split()[1:])]
    assert not unknown


def named_commands() -> list[str]:
    """What the documents call with `chatbot`, in backticks and in shell blocks, up to a comment or pipe."""
    found: list[str] = []
    for text in TEXTS.values():
        shell_lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ")
        found += re.findall(r"^(?:[A-Z_]+=\S+ )*(?:\S*/)?(chatbot [a-z-][^\n|>#&;]*)", shell_lines, re.MULTILINE)
        found += re.findall(r"`(?:[A-Z_]+=\S+ )?(chatbot [a-z-][^`|>\n]*)", FENCED.sub("", text))
    assert len(found) > 20
    return found


def understood(words: list[str]) -> bool:
    """Whether there is such a command, and it has these options. Values are not looked at."""
    name = "" if words[0].startswith("--") else words[0]
    if name not in ("", *COMMANDS, *SERVICE_COMMANDS):
        return False
    given = [[name] if name else [], [name, *words[1:2]]]  # of the command, and of its action, if it has some
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(io.StringIO()):
        for one in given:
            with contextlib.suppress(SystemExit):
                parse([*one, "--help"], "")
    options = {word.split("=")[0].rstrip(",.") for word in words if word.startswith("--")}
    return options <= set(re.findall(r"--[a-z-]+", told.getvalue()))


def test_each_block_of_code_has_a_test() -> None:
    found = Counter(
        (name_of(path), language)
        for path, text in TEXTS.items()
        for language in re.findall(r"^```(\w+)$", text, re.MULTILINE)
        if language != "text"
    )
    assert found == TESTED_BLOCKS


def test_the_quick_start_installs_as_the_test_command_does() -> None:
    (start,) = blocks(section("Quick start"), "sh")
    (test,) = blocks(section("Development"), "sh")
    steps = [step.strip() for step in start.split("&&")]
    tested = [step.strip().replace(" -q", "").replace("embedded,test", "embedded") for step in test.split("&&")]
    assert steps[:-1] == tested[:-1]
    assert steps[-1] == ".venv/bin/chatbot", "the console command is tested in test_packaging.py"


def test_modules_and_environment_variables_that_the_documents_name_exist() -> None:
    text = "".join(TEXTS.values())
    for module in set(re.findall(r"python3? -m ((?:tests|chatbot)(?:\.\w+)+)", text)):
        assert importlib.util.find_spec(module), module
    known = {setting.env for setting in inventory().values()} | by_former_env().keys()
    named = set(re.findall(r"\bCHATBOT_[A-Z0-9_]+", text)) - {"CHATBOT_", "CHATBOT_SECRET"}
    assert named <= known


def test_settings_log_lines_and_metrics_that_the_documents_name_exist() -> None:
    code = "".join(path.read_text() for name in FOLDERS[:3] for path in (ROOT / name).rglob("*.py"))
    sections = {name.partition(".")[0] for name in inventory()}
    unknown = []
    for text in TEXTS.values():
        for name in re.findall(r"`(\w+\.\w+)(?: = [^`]*)?`", text):
            is_ours = name.partition(".")[0] in sections and not name.endswith((".py", ".toml", ".db"))
            if is_ours and name not in inventory() and f'"{name}"' not in code:
                unknown.append(name)
        for name in re.findall(r"\bchatbot_[a-z_]+", text):
            if name != "chatbot_backend" and re.sub("_(total|bucket)$", "", name) not in code:
                unknown.append(name)
    assert not unknown, "the documents name what does not exist"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_the_services_address_is_set_once_in_a_document(path: Path) -> None:
    code = "".join(FENCED.findall(TEXTS[path]))
    assert code.count(PRINTED_URL) <= 1, "write URL=... in the first block, then $URL"


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
