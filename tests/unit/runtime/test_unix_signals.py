"""What a signal does to the service: drain, quit at once, or nothing."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest
import structlog

from chatbot.runtime.stop_signals import handle_stop_signals

QUIT = "quit"


@pytest.fixture(autouse=True)
def _handlers_as_they_were() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


class CaughtSignals:
    def __init__(self, *, hangup: bool = False) -> None:
        self.stop = asyncio.Event()
        self.quits: list[str] = []
        handle_stop_signals(self.stop, lambda: self.quits.append(QUIT), structlog.get_logger("run"), hangup=hangup)

    async def send(self, number: signal.Signals, done: Callable[[], object]) -> None:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(10):
            while not done():
                await asyncio.sleep(0.001)

    def remove(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_drains_and_the_second_quits(first: signal.Signals, second: signal.Signals) -> None:
    caught = CaughtSignals(hangup=True)
    with structlog.testing.capture_logs() as logs:
        await caught.send(first, caught.stop.is_set)
        assert caught.quits == []
        await caught.send(second, lambda: caught.quits)
    caught.remove()
    (line,) = logs
    assert (line["event"], line["signal"]) == ("stop.asked", first.name)
    assert "second Ctrl-C" in line["hint"]


async def test_a_hang_up_never_quits_at_once() -> None:
    caught = CaughtSignals(hangup=True)
    await caught.send(signal.SIGTERM, caught.stop.is_set)
    os.kill(os.getpid(), signal.SIGHUP)
    await caught.send(signal.SIGINT, lambda: caught.quits)
    caught.remove()
    assert caught.quits == [QUIT]


async def test_a_hang_up_that_the_process_was_started_to_ignore_is_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    caught = CaughtSignals(hangup=True)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    caught.remove()
