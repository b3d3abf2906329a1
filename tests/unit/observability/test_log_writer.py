"""Log lines go through a thread: a reader that stops reading blocks nothing, and lost lines are counted and logged."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from chatbot.observability.log_writer import WRITE_BYTES, LogWriter

WAIT_S = 10.0
LINE = "x" * 1023 + "\n"
STUCK = "y" * 90_000 + "\n"  # more than a pipe holds
MANY = 400  # of such lines: more than may wait


class Pipe:
    """`reported` are the numbers of dropped lines that were told; each adds a line of its own, as a logger would."""

    def __init__(self, waiting_max_bytes: int) -> None:
        self.reader, self.end = os.pipe()
        self.reported: list[int] = []
        self.told = threading.Event()
        self.writer = LogWriter(self.end, self._report, waiting_max_bytes=waiting_max_bytes)

    def _report(self, lines: int) -> None:
        self.reported.append(lines)
        self.writer.write(f"{lines} dropped\n")
        self.told.set()

    def read(self) -> bytes:
        return os.read(self.reader, 1 << 20)

    def read_until(self, ending: bytes) -> bytes:
        got = b""
        while not got.endswith(ending):
            got += self.read()
        return got


@contextmanager
def piped(waiting_max_bytes: int = 100_000) -> Iterator[Pipe]:
    pipe = Pipe(waiting_max_bytes)
    try:
        yield pipe
    finally:
        for number in (pipe.reader, pipe.end):
            with suppress(OSError):  # closed by the test
                os.close(number)
        pipe.writer.close(WAIT_S)


def until(reached: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(int(WAIT_S / 0.005)):
        if reached():
            return
        waited.wait(0.005)
    raise AssertionError("it never came to that")


def test_lines_arrive_in_order_and_the_last_ones_at_the_end() -> None:
    with piped() as pipe:
        for number in range(100):
            pipe.writer.write(f"{number} \udcff é\n")
        pipe.writer.close(WAIT_S)
        assert pipe.read_until(b"\n").decode() == "".join(f"{number} \\udcff é\n" for number in range(100))
        assert (pipe.writer.dropped, pipe.reported) == (0, [])


def test_unread_lines_are_dropped_beyond_the_bound_counted_and_told_once_read() -> None:
    with piped() as pipe:
        pipe.writer.write(STUCK)
        until(lambda: pipe.writer._waiting_bytes == 0)  # it is being written, and cannot be
        for _ in range(MANY):
            pipe.writer.write(LINE)
        dropped = pipe.writer.dropped
        assert dropped == MANY - 100_000 // len(LINE)
        got = pipe.read_until(b" dropped\n").decode()
        assert pipe.reported == [dropped]
        assert got == STUCK + LINE * (MANY - dropped) + f"{dropped} dropped\n"
        pipe.writer.write("on it goes\n")
        assert pipe.read_until(b"goes\n") == b"on it goes\n"
        assert pipe.writer.dropped == dropped


def test_the_end_waits_a_bounded_time_for_a_reader_that_does_not_read() -> None:
    with piped() as pipe:
        for _ in range(MANY):
            pipe.writer.write(LINE)
        pipe.writer.close(0.01)
        before = pipe.writer.dropped
        pipe.writer.write(LINE)
        assert pipe.writer.dropped == before + 1, "nobody waits for it any more"


def test_a_reader_that_has_gone_costs_lines_and_nothing_else() -> None:
    with piped() as pipe:
        os.close(pipe.reader)
        pipe.writer.write("one\n")
        until(lambda: pipe.writer.dropped == 1)
        pipe.writer.write("two\n")
        until(lambda: pipe.writer.dropped == 2)
        assert pipe.reported == []


def test_a_descriptor_that_is_not_to_block_is_waited_for() -> None:
    with piped() as pipe:
        os.set_blocking(pipe.end, False)
        for _ in range(90):
            pipe.writer.write(LINE)
        pipe.writer.write("end\n")
        assert pipe.read_until(b"end\n") == (LINE * 90).encode() + b"end\n"


@pytest.mark.parametrize("size", [WRITE_BYTES, 3 * WRITE_BYTES])
def test_a_line_longer_than_a_write_passes_whole(size: int) -> None:
    with piped(4 * WRITE_BYTES) as pipe:
        pipe.writer.write("y" * size + "\n")
        assert pipe.read_until(b"\n") == b"y" * size + b"\n"
