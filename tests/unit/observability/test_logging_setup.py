"""Logs: readable on a terminal, JSON elsewhere, with the request's id and without what people wrote."""

import contextvars
import io
import json
import logging
import re
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from chatbot.observability import logging_setup
from chatbot.observability.logging_setup import setup_logging

WRITTEN = "what somebody wrote"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    quiet = logging.getLogger("aiosqlite").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("aiosqlite").setLevel(quiet)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def logger() -> Any:
    # a fresh one each time: loggers remember the configuration that they first saw
    return structlog.get_logger(f"chatbot.{uuid.uuid4().hex}")


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail_with_locals() -> None:
    text = WRITTEN
    raise RuntimeError("turn failed") from KeyError(len(text))


def test_a_process_is_named_in_the_lines_of_tasks_without_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging_setup, "_process_fields", {})
    stream = io.StringIO()
    setup_logging(stream=stream)
    logging_setup.name_process(worker=2)
    contextvars.Context().run(lambda: logger().info("reply.ended"))
    logging.getLogger("library").warning("late")
    assert [line["worker"] for line in lines(stream)] == [2, 2]


def test_a_line_is_json_where_nobody_watches() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    structlog.get_logger("chatbot.sessions").info("actor.passivated", session_id="s1", idle_s=60)
    (line,) = lines(stream)
    assert list(line)[:4] == ["timestamp", "level", "event", "logger"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {"level": "info", "event": "actor.passivated", "logger": "chatbot.sessions", "session_id": "s1",
                    "idle_s": 60}  # fmt: skip


def test_a_line_is_text_on_a_terminal() -> None:
    stream = Terminal()
    setup_logging(stream=stream)
    logger().info("actor.passivated", session_id="s1")
    text = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert re.search(r"\[info +\] actor\.passivated .*session_id=s1\n$", text)


def test_the_format_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, file = Terminal(), io.StringIO()
    setup_logging(format="json", stream=terminal)
    logger().info("a.b")
    assert lines(terminal)[0]["event"] == "a.b"
    setup_logging(format="console", stream=file)
    logger().info("a.b")
    assert "a.b" in file.getvalue()
    assert "\x1b" not in file.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    setup_logging(stream=plain)
    logger().info("a.b")
    assert "\x1b" not in plain.getvalue()


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    logger().info("a.b")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "a.b"


def test_a_librarys_records_look_like_ours() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    structlog.contextvars.bind_contextvars(request_id="r1")
    logging.getLogger("aiohttp.server").error("Error handling %s", "request")
    logger().info("a.b")
    foreign, ours = lines(stream)
    assert foreign["event"] == "Error handling request"
    assert foreign["level"] == "error"
    assert foreign["logger"] == "aiohttp.server"
    assert foreign["request_id"] == ours["request_id"] == "r1"
    assert foreign.keys() == ours.keys()


def test_warnings_are_records_too() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        setup_logging(stream=stream)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in lines(stream)[0]["event"]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["json", "console"])
@pytest.mark.parametrize("source", ["ours", "library"])
def test_a_traceback_shows_its_cause_but_no_local_variables(stream: io.StringIO, source: str) -> None:
    setup_logging(stream=stream)
    try:
        fail_with_locals()
    except RuntimeError:
        (logger() if source == "ours" else logging.getLogger("asyncio")).exception("reply.crashed")
    assert "fail_with_locals" in stream.getvalue()
    assert "KeyError" in stream.getvalue()
    assert WRITTEN not in stream.getvalue()


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    setup_logging("warning", stream=stream)
    log = logger()
    log.info("a.b")
    logging.getLogger("aiohttp.access").info("GET /")
    log.warning("c.d")
    assert [line["event"] for line in lines(stream)] == ["c.d"]


def test_what_is_filtered_is_not_even_formatted() -> None:
    setup_logging("info", stream=io.StringIO())
    log = logger()
    assert log.bind().debug.__name__ == "_nop"


def test_statements_with_their_parameters_are_never_written() -> None:
    stream = io.StringIO()
    setup_logging("debug", stream=stream)
    logging.getLogger("aiosqlite").debug("executing %s", WRITTEN)
    logger().debug("a.b")
    assert [line["event"] for line in lines(stream)] == ["a.b"]


def test_values_that_json_does_not_know_do_not_stop_a_line() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    loop: list[Any] = []
    loop.append(loop)
    logger().info("a.b", path="\udcff", ratio=float("nan"))
    logger().info("c.d", loop=loop, large=1 << 80, both={1: "x", "1": "y"})
    logger().info("e.f", thing=object(), count=1)
    first, second, third = lines(stream)
    assert first["path"] == "\\udcff"
    assert third["thing"].startswith("<object")
    assert third["count"] == 1
    assert (first["event"], second["event"]) == ("a.b", "c.d")


def test_setting_up_twice_writes_each_line_once() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    setup_logging(stream=stream)
    logger().info("a.b")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize(("level", "form"), [("loud", "auto"), ("info", "xml")])
def test_an_unknown_level_or_format_is_refused(level: str, form: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        setup_logging(level, form, stream=io.StringIO())
