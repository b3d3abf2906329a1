"""A normal start logs no warning, so that warnings stay worth an alert."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.command_processes import run_command_blocking
from tests.support.model.model_server import ModelServer
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Program, program

MACHINE = {"loop.late", "clock.jumped"}  # it is busy, or was suspended, which no start can help


def warnings_of(started: Program) -> list[dict[str, Any]]:
    return [line for line in started.lines if line["level"] != "info" and line["event"] not in MACHINE]


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_a_start_over_a_file_logs_no_warning(
    tmp_path: Path, model: ModelServer, arguments: tuple[str, ...]
) -> None:
    for _ in range(1 if arguments else 2):  # the first makes the files
        async with program(tmp_path, model.url, *arguments) as started:
            assert await started.stop() == 0
        assert warnings_of(started) == []
    (read,) = started.log("settings.read")
    assert [Path(file).is_absolute() for file in read["files"]] == [True]
    assert started.log("server.listening")[0]["database"] == str(tmp_path / "chatbot.db")


@pytest.mark.real_part
async def test_a_start_over_postgresql_logs_no_warning(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    async with program(tmp_path, model.url, DATABASE_URL=await postgres.schema()) as started:
        assert await started.stop() == 0
    assert warnings_of(started) == []
    assert started.log("settings.hint")


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_an_old_name_of_a_setting_is_one_warning(
    tmp_path: Path, model: ModelServer, arguments: tuple[str, ...]
) -> None:
    async with program(tmp_path, model.url, *arguments, CHATBOT_NODES_SUSPECT_S="5") as started:
        assert await started.stop() == 0
    (warning,) = warnings_of(started)
    assert (warning["event"], warning["level"]) == ("settings.renamed", "warning")
    assert warning["advice"].startswith("CHATBOT_NODES_SUSPECT_S (environment) is now CHATBOT_NODES_FAILURE_TIMEOUT_S;")


def test_a_command_writes_of_an_old_name_to_standard_error(tmp_path: Path) -> None:
    shown = run_command_blocking(tmp_path, "config", CHATBOT_NODES_SUSPECT_S="5")
    assert shown.returncode == 0
    assert shown.stderr == (
        "warning: CHATBOT_NODES_SUSPECT_S (environment) is now CHATBOT_NODES_FAILURE_TIMEOUT_S;"
        " the old name works until 1.0\n"
    )
    assert "failure_timeout_s" in shown.stdout
    assert "suspect_s" not in shown.stdout
