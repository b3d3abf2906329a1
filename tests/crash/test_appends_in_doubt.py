"""Appends to the log of another process over connections that break at any byte: each is recorded exactly once, or its
caller is told the truth.
"""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from events.errors import LogUnavailable, OutcomeUnknown
from events.integrity.chain_verifier import verify
from events.log import EventLog
from events.options import LogOptions
from events.record import RecordedEvent
from events.remote.remote_log import RemoteLog
from tests.support.log.log_service import LogService
from tests.support.log.log_texts import ALL, texts
from tests.support.log.sample_events import ASKED, posted
from tests.support.nightly import scaled
from tests.support.programs.cutting_proxy import Cut, CuttingProxy

STREAMS = 4
APPENDS = 6  # to each stream
GREETING_BYTES = 100  # about: cuts are to be in the middle of appends, too
cuts = st.tuples(st.integers(0, GREETING_BYTES + 6_000), st.integers(0, GREETING_BYTES + 400))
patient, hasty = LogOptions(busy_timeout_s=20.0), LogOptions(busy_timeout_s=0.2)

Outcome = tuple[RecordedEvent, ...] | Exception
Outcomes = dict[str, Outcome]  # by text


async def append_in_turn(log: EventLog, stream_id: str, outcomes: Outcomes) -> None:
    """Append texts one after the other, for as long as it is known at which version the stream is."""
    for version in range(APPENDS):
        text = f"{stream_id}:{version}"
        try:
            outcomes[text] = await log.append(stream_id, version, [posted(text)], ASKED)
        except LogUnavailable as error:
            outcomes[text] = error
            return


async def check(log: EventLog, outcomes: Outcomes) -> None:
    recorded = await log.read_all(limit=ALL)
    found = Counter(str(text) for text in texts(recorded))
    assert max(found.values(), default=1) == 1, "an append is recorded twice"
    for text, outcome in outcomes.items():
        if isinstance(outcome, tuple):
            assert recorded[outcome[0].position - 1] == outcome[0], "an acknowledged append is not what it was"
        elif not isinstance(outcome, OutcomeUnknown):
            assert not found[text], "an append is recorded though its caller was told that it is not"
    assert (await verify(log))[1] is None


async def append_over(
    folder: Path, plan: list[Cut], options: LogOptions, *, restarts: bool, pause_s: float
) -> Outcomes:
    """Over connections that are cut as planned. With `restarts` the writer is another one after a while; for `pause_s`
    there is none.
    """
    service = LogService(folder / "log.db")
    await service.start()
    proxy = CuttingProxy(service.address, plan)
    await proxy.start()
    outcomes: Outcomes = {}
    log = None
    try:
        log = await RemoteLog.open(service.path, proxy.address, service.positions, options)
        appends = [asyncio.create_task(append_in_turn(log, f"s{one}", outcomes)) for one in range(STREAMS)]
        if restarts:
            await asyncio.wait(appends, timeout=0.01)
            await service.stop()
            await proxy.stop()
            await asyncio.sleep(pause_s)
            await service.start()
            await proxy.start()
        await asyncio.gather(*appends)
        await log.close()
        assert service.log is not None
        await check(service.log, outcomes)
        return outcomes
    finally:
        if log is not None:
            await log.close()
        await proxy.stop()
        await service.close()


@given(st.lists(cuts, max_size=5), st.booleans())
@settings(max_examples=scaled(20), deadline=None)
def test_a_connection_that_breaks_at_any_byte_loses_and_doubles_nothing(plan: list[Cut], restarts: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outcomes = asyncio.run(append_over(Path(folder), plan, patient, restarts=restarts, pause_s=0.0))
    assert all(isinstance(outcome, tuple) for outcome in outcomes.values())
    assert len(outcomes) == STREAMS * APPENDS


@given(st.lists(cuts, max_size=3))
@settings(max_examples=scaled(4), deadline=None)
def test_callers_that_have_waited_too_long_for_a_writer_are_told_the_truth(plan: list[Cut]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(append_over(Path(folder), plan, hasty, restarts=True, pause_s=0.5))
