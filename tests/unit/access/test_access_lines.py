"""The lines of the access log as JSON: written past the logging library, and yet as it writes them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import structlog

from chatbot.api.access.access_log import AccessLog
from chatbot.config.sections.logging_settings import LoggingSettings
from chatbot.config.sections.server_settings import ServerSettings
from chatbot.config.settings import Settings
from chatbot.observability import logging_setup
from chatbot.observability.log_writer import LogWriter
from chatbot.observability.logging_setup import setup_logging


def written(folder: Path, settings: Settings, *, direct: bool, is_on: bool = True) -> list[dict[str, Any]]:
    """The lines of one refused connection."""
    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    writer = LogWriter(descriptor, lambda _: None)
    setup_logging(settings.logging.level, settings.logging.format, stream=writer)
    logger = structlog.get_logger("api")
    access_log = AccessLog(settings, logger, writer if direct else None, is_on=is_on)
    access_log.write_refused_connection("203.0.113.9", 503, "r-1", 321)
    writer.close()
    os.close(descriptor)
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


@pytest.mark.parametrize("process", [{}, {"worker": 3}])
def test_a_line_written_directly_is_like_one_of_the_logging_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: dict[str, int | str]
) -> None:
    monkeypatch.setattr(logging_setup, "_process_fields", {})
    logging_setup.name_process(**process)
    settings = Settings(logging=LoggingSettings(format="json"))
    (direct,) = written(tmp_path, settings, direct=True)
    (usual,) = written(tmp_path, settings, direct=False)
    assert list(direct) == list(usual)
    assert len(direct.pop("timestamp")) == len(usual.pop("timestamp"))
    assert direct == usual
    assert direct["client"] == "203.0.113.9"
    assert direct.get("worker") == process.get("worker")


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("settings", [Settings(logging=LoggingSettings(level="warning", format="json")), None])
def test_no_line_below_the_level_or_if_it_is_off(tmp_path: Path, settings: Settings | None, *, direct: bool) -> None:
    lines = written(tmp_path, settings or Settings(), direct=direct, is_on=settings is not None)
    assert lines == []


def test_debug_overrides_the_level(tmp_path: Path) -> None:
    server = ServerSettings(debug=True)
    settings = Settings(server=server, logging=LoggingSettings(level="error", format="json"))
    assert len(written(tmp_path, settings, direct=True)) == 1
