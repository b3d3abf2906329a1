"""Random logs out and in again: the same but for place, chain and source; and an owner's part is the owner's."""

import asyncio
import io
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.maintenance.export_import import ExportedPart, export_log, import_file
from events.catalogue import AdoptedMessage, Event, HistoryAdopted, Origin, SessionDeleted
from events.record import StoredRow
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.export_format import ExportReader
from events.transfer.importer import ImportRules
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import ASKED, EVERY_EVENT, posted
from tests.support.log.sample_log import content, created, is_imported, rows_of
from tests.support.nightly import scaled

STREAMS, OWNERS = ("a", "b", "c", "d"), ("alice", "bob", None)
OWNER_OF = dict(zip(STREAMS, ("alice", "bob", None, "alice"), strict=True))
ORDINARY = [event for event in EVERY_EVENT if not hasattr(event, "owner")]  # those say whose a session is
events = st.one_of(st.sampled_from(ORDINARY), st.text(max_size=40).map(posted))


class Step(Struct, frozen=True):
    """Append to a stream, or erase it, or let it begin as a fork of another."""

    stream_id: str
    appended: list[Event]
    erases: bool
    forks: str


steps = st.builds(
    Step, st.sampled_from(STREAMS), st.lists(events, max_size=4), st.booleans(), st.sampled_from((*STREAMS, ""))
)
quick = settings(max_examples=scaled(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])


async def record(path: Path, history: list[Step]) -> dict[str, str]:
    """Write `history`; which stream was forked from which."""
    log = await SqliteLog.open(path)
    await put_sample_files(log)
    versions: dict[str, int] = {}
    forks: dict[str, str] = {}
    for step in history:
        stream, version = step.stream_id, versions.get(step.stream_id, 0)
        if step.erases and version:
            await log.erase(stream, version, SessionDeleted(reason="x", owner=OWNER_OF[stream]), ASKED)
            versions[stream] = version + 1
            continue
        appended = list(step.appended)
        if not version:
            origin = step.forks if versions.get(step.forks) and step.forks != stream else None
            texts = (await log.read(origin, limit=100))[-3:] if origin else []
            adopted = tuple(AdoptedMessage("x", None, "user", "complete", one.position, 1) for one in texts)
            first: list[Event] = [created(OWNER_OF[stream], Origin(origin, 1, None) if origin else None)]
            appended = first + ([HistoryAdopted(adopted)] if adopted else []) + appended
            if origin:
                forks[stream] = origin
        if appended:
            await log.append(stream, version, appended, ASKED)
            versions[stream] = version + len(appended)
    await log.close()
    return forks


async def exported(path: Path, owner: str | None = None) -> bytes:
    log = await SqliteLog.open(path, read_only=True)
    try:
        out = io.BytesIO()
        await export_log(log, path, out, ExportedPart(owner=owner))
        return out.getvalue()
    finally:
        await log.close()


def kept(rows: list[StoredRow]) -> list[object]:
    """What an import keeps of them."""
    return [content(row, nodes=False) for row in rows]


def streams_of(rows: list[StoredRow]) -> set[str]:
    return {row.stream_id for row in rows}


def wanted(owner: str, rows: list[StoredRow], forks: dict[str, str]) -> set[str]:
    """The owner's streams and, over any number of forks, the open ones that they read, while neither is erased."""
    found = {stream for stream in streams_of(rows) if OWNER_OF[stream] == owner}
    whole = {row.stream_id for row in rows if row.version == 1 and row.data is not None}
    for _ in STREAMS:
        for fork, origin in forks.items():
            if {fork, origin} <= whole and fork in found and OWNER_OF[origin] in (None, owner):
                found.add(origin)
    return found


@quick
@given(st.lists(steps, min_size=1, max_size=12), st.lists(steps, max_size=3))
def test_out_and_in_and_out_again_is_the_same(history: list[Step], before: list[Step]) -> None:
    async def run(folder: Path) -> None:
        await record(folder / "a.db", history)
        first = await exported(folder / "a.db")
        log = await SqliteLog.open(folder / "b.db")
        for number, _ in enumerate(before):
            await log.append(f"theirs {number}", 0, [posted("x")], ASKED)
        await log.close()
        await import_file(io.BytesIO(first), folder / "b.db", ImportRules())
        rows, again = await rows_of(folder / "a.db"), await rows_of(folder / "b.db")
        assert kept([row for row in again if is_imported(row)]) == kept(rows)
        assert {row.type for row in again[len(before) :] if not is_imported(row)} <= {"reply_interrupted"}
        second = ExportReader(io.BytesIO(await exported(folder / "b.db")))
        assert [row for _, row in second.rows()] == again

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


@quick
@given(st.lists(steps, min_size=1, max_size=12), st.sampled_from(["alice", "bob"]))
def test_an_owners_part_is_the_owners_and_holds_by_itself(history: list[Step], owner: str) -> None:
    async def run(folder: Path) -> None:
        forks = await record(folder / "a.db", history)
        rows = await rows_of(folder / "a.db") if (folder / "a.db").exists() else []
        expected = wanted(owner, rows, forks)
        try:
            part = await exported(folder / "a.db", owner)
        except CommandFailed:
            assert expected == set()
            return
        assert expected
        await import_file(io.BytesIO(part), folder / "b.db", ImportRules())
        again = await rows_of(folder / "b.db")
        assert kept([row for row in again if is_imported(row)]) == kept([r for r in rows if r.stream_id in expected])

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
