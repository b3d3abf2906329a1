"""Any history of messages with files, erasures and copies of the log: a file is kept as long as a message or an upload
refers to it, and no longer; of what goes, no byte is left in any file.
"""

import asyncio
import io
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from chatbot.cli.maintenance.export_import import export_log, import_file
from events.catalogue import MessageCopied, MessagePosted
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.file_check import NotedReferences, check_files
from events.media import MEDIA_CHUNK_BYTES, MediaStat
from events.record import Metadata
from events.schema.parts import Media, Text, ToolResult
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.importer import ImportRules
from events.transfer.migration import migrate, open_target
from tests.support.log.media import FAR_US, digest_of, file_bytes, put
from tests.support.log.sample_events import deleted
from tests.support.nightly import scaled

STREAMS = ("a", "b", "c")
OWNERS = ("alice", "bob")
FILES = [file_bytes(size, size) for size in (40, 5000, MEDIA_CHUNK_BYTES, 2 * MEDIA_CHUNK_BYTES + 9)]


class Post(Struct, frozen=True):
    """A message of the owner with these files, posted, copied into a fork, or as a tool's result."""

    stream_id: str
    owner: str
    files: list[int]
    kind: str


class Erase(Struct, frozen=True):
    stream_id: str


class Upload(Struct, frozen=True):
    owner: str
    file: int


class Expire(Struct, frozen=True):
    """All uploads become due."""


class Reopen(Struct, frozen=True):
    """The log is closed, and opened again."""


owners, files = st.sampled_from(OWNERS), st.integers(0, len(FILES) - 1)
steps = st.one_of(
    st.builds(
        Post,
        st.sampled_from(STREAMS),
        owners,
        st.lists(files, min_size=1, max_size=3),
        st.sampled_from(["posted", "copied", "tool"]),
    ),
    st.builds(Erase, st.sampled_from(STREAMS)),
    st.builds(Upload, owners, files),
    st.builds(Expire),
    st.builds(Reopen),
)
Step = Post | Erase | Upload | Expire | Reopen


class Model:
    """What keeps each file: streams, and owners' uploads."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.shown: dict[int, set[str]] = {}
        self.uploads: set[tuple[int, str]] = set()

    def kept(self) -> set[int]:
        return {number for number, streams in self.shown.items() if streams} | {number for number, _ in self.uploads}

    def shown_files(self) -> set[int]:
        return {number for number, streams in self.shown.items() if streams}


def message(kind: str, stats: list[MediaStat]) -> MessagePosted | MessageCopied:
    media = tuple(Media(stat.sha256, stat.media_type, stat.bytes) for stat in stats)
    match kind:
        case "posted":
            return MessagePosted("m", None, "user", "Look", parts=(Text("Look"), *media))
        case "copied":
            return MessageCopied("m", "user", "", parts=media)
        case _:
            return MessagePosted("m", "r", "tool", "", parts=(ToolResult("call", media),))


async def apply(log: SqliteLog, model: Model, step: Post | Erase | Upload | Expire) -> None:
    match step:
        case Post():
            stats = [await put(log, FILES[number], holder=step.owner) for number in step.files]
            version = model.versions.get(step.stream_id, 0)
            await log.append(step.stream_id, version, [message(step.kind, stats)], Metadata(actor=step.owner))
            model.versions[step.stream_id] = version + 1
            for number in step.files:
                model.shown.setdefault(number, set()).add(step.stream_id)
                model.uploads.discard((number, step.owner))
        case Erase():
            version = model.versions.get(step.stream_id, 0)
            if version:
                await log.erase(step.stream_id, version, deleted(), Metadata())
                model.versions[step.stream_id] = version + 1
                for streams in model.shown.values():
                    streams.discard(step.stream_id)
        case Upload():
            await put(log, FILES[step.file], holder=step.owner)
            model.uploads.add((step.file, step.owner))
        case Expire():
            await log.media.delete_due(FAR_US)
            model.uploads.clear()


def left_of(content: bytes, folder: Path) -> list[str]:
    """The files of the folder with a piece of it: one in each half page is looked for."""
    pieces = [content[at : at + 32] for at in range(0, len(content) - 31, 2048)]
    data = {path.name: path.read_bytes() for path in folder.iterdir()}
    return [name for name, text in data.items() if any(piece in text for piece in pieces)]


async def check(path: Path, kept: set[int]) -> None:
    """The log holds, and has these files and no others."""
    log = await SqliteLog.open(path, read_only=True)
    noted = NotedReferences()
    assert (await verify(log, ChainVerifier(references=noted)))[1] is None
    report = await check_files(log, noted)
    found = {stat.sha256 for stat in await log.media.files(limit=100)}
    await log.close()
    assert (report.faults, report.left_bytes) == ([], 0)
    assert found == {digest_of(FILES[number]) for number in kept}


async def copied(source: Path, folder: Path) -> list[Path]:
    """The log as an import and as a migration have it."""
    log = await SqliteLog.open(source, read_only=True)
    out = io.BytesIO()
    await export_log(log, source, out)
    target = await open_target(folder / "moved.db")
    done = await migrate(log, target, lambda _: None)
    assert done.lost == []
    await target.close()
    await log.close()
    assert (await import_file(io.BytesIO(out.getvalue()), folder / "imported.db", ImportRules()))["without_file"] == 0
    return [folder / "moved.db", folder / "imported.db"]


async def run(folder: Path, history: list[Step]) -> None:
    model, path = Model(), folder / "log.db"
    log = await SqliteLog.open(path)
    for step in history:
        if isinstance(step, Reopen):
            await log.close()
            log = await SqliteLog.open(path)
        else:
            await apply(log, model, step)
        if isinstance(step, Erase | Expire):
            gone = set(range(len(FILES))) - model.kept()
            assert [left_of(FILES[number], folder) for number in gone] == [[]] * len(gone)
    await log.media.delete_due(0)  # what was uploaded twice
    await log.close()
    await check(path, model.kept())
    if model.versions:
        (folder / "copies").mkdir()
        for copy in await copied(path, folder / "copies"):
            await check(copy, model.shown_files())


@settings(max_examples=scaled(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=1, max_size=15))
def test_a_file_is_kept_while_something_refers_to_it_and_then_gone_from_every_file(history: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder), history))
