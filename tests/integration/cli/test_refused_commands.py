"""Commands that refuse: each names what is wrong, and leaves nothing behind."""

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.integration.cli.test_export_import import exported
from tests.integration.cli.test_proof_commands import Audit, audit
from tests.support.command_processes import NO_MODEL, run_command, run_command_blocking
from tests.support.log.sample_log import rows_of, write_sample_log
from tests.support.model.model_server import ModelServer
from tests.support.service import ROOT, environment, program, serving

__all__ = ["audit"]
KEYS = "mina:a-long-secret-of-hers,jun:another-long-secret"
MINA, JUN = "a-long-secret-of-hers", "another-long-secret"


async def test_an_owner_whose_key_the_settings_do_not_know_is_never_erased_by_url(
    tmp_path: Path, model: ModelServer
) -> None:
    async with program(tmp_path, model.url, CHATBOT_API_KEYS=KEYS) as running:
        headers = {"Authorization": f"Bearer {JUN}"}
        async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=30) as client:
            his = (await client.post("/api/sessions")).json()["session_id"]
            by_http = ("erase", "--owner", "mina", "--url", running.url)
            for more, settings in (
                (("--key", JUN), {}),
                (("--key", MINA), {}),
                ((), {}),
                (("--key", JUN, "--dry-run"), {}),
                (("--key", JUN), {"CHATBOT_API_KEYS": f"lea:{'x' * 20}"}),
            ):
                told = await run_command(tmp_path, *by_http, *more, **settings)
                assert (told.returncode, told.stdout) == (2, "")
                assert (
                    "which owner this key is cannot be told from here: use --key with a key of the scope" in told.stderr
                )
                assert "erase, set CHATBOT_API_KEYS as the service has it, or use --session/--metadata" in told.stderr
            told = await run_command(tmp_path, *by_http, "--key", JUN, CHATBOT_API_KEYS=KEYS)
            assert (told.returncode, "not the key of mina" in told.stderr) == (2, True)
            told = await run_command(tmp_path, *by_http, CHATBOT_API_KEYS=KEYS)
            assert (told.returncode, told.stdout) == (0, ""), "the settings' own key of that name is used"
            assert (await client.get(f"/api/sessions/{his}")).status_code == 200


async def test_the_key_can_be_typed_on_standard_input_where_ps_does_not_show_it(
    tmp_path: Path, model: ModelServer
) -> None:
    async with program(tmp_path, model.url, CHATBOT_API_KEYS=KEYS) as running:
        headers = {"Authorization": f"Bearer {MINA}"}
        async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=30) as client:
            hers = (await client.post("/api/sessions")).json()["session_id"]
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, str(ROOT / "run.py"), "erase", "--session", hers, "--url", running.url, "--key", "-"],
                cwd=tmp_path,
                env={"PATH": "/usr/bin:/bin", **environment(tmp_path, NO_MODEL)},
                input=f"{MINA}\nanother line",
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert (done.returncode, hers in done.stdout) == (0, True), done.stderr
            assert (await client.get(f"/api/sessions/{hers}")).status_code == 404


def test_a_service_that_cannot_be_reached_is_told_in_one_plain_sentence(tmp_path: Path) -> None:
    refused = run_command_blocking(tmp_path, "erase", "--metadata", "a=1", "--url", "http://127.0.0.1:9")
    assert refused.returncode == 1
    assert refused.error_line == "error: nothing answers at http://127.0.0.1:9: does the service run there?"


@pytest.mark.parametrize("signed", ["--checkpoint", "--proof"])
def test_a_key_that_is_none_is_named_and_not_what_it_should_have_signed(audit: Audit, signed: str) -> None:
    audit.prove("--session", "a")
    with_it = ("verify", signed, signed.removeprefix("--"), "--key")
    assert audit.refused(*with_it, "nofile", code=2) == "error: no such file or key: nofile\n"
    secret = audit.refused(*with_it, "key", code=2)
    assert secret == "error: key holds the secret key: give the public one, key.pub\n"
    text = (audit.folder / "key").read_text().strip()
    assert audit.refused(*with_it, text, code=2) == "error: --key is the secret key: give the public one\n"
    assert "--key checkpoint: " in audit.refused(*with_it, "checkpoint", code=2)
    assert audit.run(*with_it, "key.pub")


async def test_a_refused_import_leaves_no_log_and_no_lock_that_were_not_there(tmp_path: Path) -> None:
    await write_sample_log(tmp_path / "source.db")
    lines = (await exported(tmp_path / "source.db")).splitlines(keepends=True)
    folder = tmp_path / "empty"
    folder.mkdir()
    cut = tmp_path / "cut.ndjson"
    cut.write_bytes(b"".join(lines[:-1]))
    refused = await run_command(folder, "import", str(cut))
    assert (refused.returncode, list(folder.iterdir())) == (1, [])
    (folder / "chatbot.db-lock").touch()
    assert (await run_command(folder, "import", str(cut))).returncode == 1
    assert [one.name for one in folder.iterdir()] == ["chatbot.db-lock"]
    cut.write_bytes(b"".join(lines))
    assert (await run_command(folder, "import", str(cut))).returncode == 0
    before = await rows_of(folder / "chatbot.db")
    assert (await run_command(folder, "import", str(cut))).returncode == 1
    assert await rows_of(folder / "chatbot.db") == before


async def test_a_version_that_the_session_has_not_reached_is_refused(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session()
        await service.chat(session_id, "one")
        version = (await service.client.get(f"/api/sessions/{session_id}")).json()["version"]
    one = ("--session", session_id)
    for option, told in (
        ("--as-of", await run_command(tmp_path, "replay", *one, "--as-of", "99")),
        ("--from", await run_command(tmp_path, "diff", *one, "--from", "99")),
        ("--to", await run_command(tmp_path, "diff", *one, "--from", "1", "--to", "99")),
    ):
        assert (told.returncode, told.stdout) == (2, "")
        assert told.stderr.endswith(f"error: {option} 99: the session is at version {version}\n")
    assert (await run_command(tmp_path, "replay", *one, "--as-of", str(version))).returncode == 0
    told = await run_command(tmp_path, "replay", *one, "--as-of", "yesterday")
    assert (told.returncode, "%2B" in told.stderr) == (2, False)


async def test_no_further_turn_is_asked_of_a_server_that_cannot_be_reached(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session()
        for number in range(4):
            await service.chat(session_id, f"no. {number}")
    replay = ("replay", "--against", NO_MODEL, "--concurrency", "1")
    told = await run_command(tmp_path, *replay, "--baseline", model.url)
    assert (told.returncode, told.stdout.count("FAILED")) == (1, 1)
    assert told.stdout.splitlines()[-1] == "1 turns: 0 identical, 1 failed"
    assert f"error: {NO_MODEL} cannot be reached, no more turns are asked" in told.stderr
    told = await run_command(tmp_path, *replay)
    assert (told.returncode, told.stdout) == (1, "0 turns: 0 identical, 0 failed\n")
    assert "error: the model of the settings, the recorded model, cannot be reached" in told.stderr


def test_a_usage_error_shows_the_commands_own_usage(tmp_path: Path) -> None:
    for arguments in (("replay", "--sesion", "x"), ("verify", "stray"), ("erase", "--owner", "x", "--nonsense")):
        refused = run_command_blocking(tmp_path, *arguments)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"usage: run.py {arguments[0]} ")
    assert run_command_blocking(tmp_path, "--nonsense").stderr.startswith("usage: run.py [")


def test_config_takes_what_it_can_show_and_no_reload(tmp_path: Path) -> None:
    helped = run_command_blocking(tmp_path, "config", "--help").stdout
    assert [option in helped for option in ("--host", "--port", "--config", "--reload")] == [True, True, True, False]
    assert run_command_blocking(tmp_path, "config", "--reload").returncode == 2


@pytest.mark.parametrize("name", ["backup", "keygen"])
async def test_a_directory_is_not_taken_for_the_file_to_write(tmp_path: Path, name: str) -> None:
    await write_sample_log(tmp_path / "chatbot.db")
    told = await run_command(tmp_path, name, ".")
    assert (told.returncode, told.stdout) == (2, "")
    assert ". is a directory: name the file" in told.stderr


async def test_what_is_no_log_is_not_searched_as_if_it_were_one(tmp_path: Path) -> None:
    (tmp_path / "chatbot.db").write_text("nothing of the kind")
    told = await run_command(tmp_path, "erased", "--check", "a text that is nowhere")
    assert (told.returncode, told.stdout) == (3, "")
    assert "is no log of this program" in told.stderr
