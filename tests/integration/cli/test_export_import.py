"""`run.py export` and `run.py import`: the same conversations in another log, with a chain of its own."""

import asyncio
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatbot.audit.conversation import load_conversation
from chatbot.cli.maintenance.export_import import ExportedPart, export_log, import_file
from chatbot.cli.remedies import with_remedy
from events.catalogue import (
    AdoptedMessage,
    Event,
    HistoryAdopted,
    MessagePosted,
    Origin,
    ReplyCompleted,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    SessionExpired,
)
from events.errors import LogInUse
from events.record import Metadata, RecordedEvent
from events.storage.incomplete_log import LogIncomplete, WritingCommand
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.export_format import ExportFileError
from events.transfer.import_target import ImportRefused, ImportTarget, mark_complete
from events.transfer.importer import ImportRules
from projections.folds.session import Erasure, evolve
from tests.support.command_processes import run_command, run_command_blocking
from tests.support.log.sample_events import ASKED, PARAMETERS, posted
from tests.support.log.sample_log import content, created, imported, rows_of, write_sample_log
from tests.support.model.model_server import ModelServer
from tests.support.service import program

NO_RULES = ImportRules()
Lines = list[dict[str, Any]]


async def exported(path: Path, **part: str) -> bytes:
    log = await SqliteLog.open(path, read_only=True)
    try:
        out = io.BytesIO()
        await export_log(log, path, out, ExportedPart(owner=part.get("owner"), session=part.get("session")))
        return out.getvalue()
    finally:
        await log.close()


def sealed(lines: Lines) -> bytes:
    """`lines` with a trailer that fits them."""
    text = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
    trailer = {"events": len(lines) - 1, "sha256": hashlib.sha256(text).hexdigest()}
    return text + json.dumps(trailer, separators=(",", ":")).encode() + b"\n"


async def take(data: bytes, path: Path, rules: ImportRules = NO_RULES) -> dict[str, object]:
    return await import_file(io.BytesIO(data), path, rules)


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    await write_sample_log(tmp_path / "source.db")
    return tmp_path / "source.db"


async def test_a_log_goes_out_and_in_with_versions_times_and_content_kept_and_a_new_chain(
    source: Path, tmp_path: Path
) -> None:
    done = await take(await exported(source), tmp_path / "new.db")
    before, after = await rows_of(source), await rows_of(tmp_path / "new.db")
    assert [content(row) for row in after] == [content(row) for row in before]
    assert [row.digest for row in after] != [row.digest for row in before]
    assert [imported(row) for row in after] == [f"{done['origin']}:{row.position}" for row in before]
    assert str(done["origin"]).removeprefix("chatbot-log/") == before[0].digest.hex()[:32]
    assert (done["imported"], done["digest"]) == (len(before), after[-1].digest.hex())


async def test_a_fork_still_finds_the_texts_that_it_reads_in_a_log_that_had_others(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "other.db"
    log = await SqliteLog.open(target)
    await log.append("theirs", 0, [posted(str(number)) for number in range(5)], ASKED)
    await log.close()
    assert (await take(await exported(source), target))["without_text"] == 0
    for path in (source, target):
        log = await SqliteLog.open(path, read_only=True)
        fork = await load_conversation(log, "fork")
        await log.close()
        assert fork is not None
        assert [one.content for one in fork.branch()] == [
            "words of m1", "answer to m1", "words of m4", "answer to m4",
        ]  # fmt: skip
    assert len(await rows_of(target)) == 5 + len(await rows_of(source))


async def test_an_owners_export_holds_the_owners_sessions_the_erased_one_and_what_a_fork_reads(
    source: Path, tmp_path: Path
) -> None:
    await take(await exported(source, owner="alice"), tmp_path / "alice.db")
    after = await rows_of(tmp_path / "alice.db")
    assert {row.stream_id for row in after} == {"open", "fork", "gone", "later"}
    kept = [content(row) for row in await rows_of(source) if row.stream_id != "bobs"]
    assert [content(row) for row in after] == kept
    await take(await exported(source, owner="bob"), tmp_path / "bob.db")
    assert {row.stream_id for row in await rows_of(tmp_path / "bob.db")} == {"bobs"}


async def test_another_owners_session_is_not_taken_though_a_fork_reads_it(tmp_path: Path) -> None:
    """Such forks were made while no keys were asked for. The fork then lacks the texts, which the import counts."""
    log = await SqliteLog.open(tmp_path / "log.db")
    said = await log.append("bobs", 0, [created("bob"), posted("bob's words")], ASKED)
    adopted = AdoptedMessage("m", None, "user", "complete", said[1].position, said[1].recorded_at_us)
    fork = [created("alice", Origin("bobs", 2, "m")), HistoryAdopted((adopted,))]
    await log.append("fork", 0, fork, ASKED)
    await log.append("fork of fork", 0, [created("alice", Origin("fork", 2, "m")), HistoryAdopted((adopted,))], ASKED)
    await log.close()
    for part in ({"owner": "alice"}, {"session": "fork of fork"}):
        data = await exported(tmp_path / "log.db", **part)
        assert b"bob" not in data.replace(b"bobs", b"")
        target = tmp_path / f"{'-'.join(part)}.db"
        assert (await take(data, target))["without_text"] == 2
        assert {row.stream_id for row in await rows_of(target)} == {"fork", "fork of fork"}


async def test_a_sessions_export_holds_it_alone_or_with_what_it_was_forked_from(source: Path, tmp_path: Path) -> None:
    for session, streams in (("bobs", {"bobs"}), ("gone", {"gone"}), ("fork", {"open", "fork"})):
        await take(await exported(source, session=session), tmp_path / f"{session}.db")
        assert {row.stream_id for row in await rows_of(tmp_path / f"{session}.db")} == streams


async def test_sessions_that_the_log_has_refuse_the_import_or_are_skipped(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "other.db"
    log = await SqliteLog.open(target)
    await log.append("open", 0, [posted("mine")], ASKED)
    await log.close()
    before = await rows_of(target)
    with pytest.raises(ImportRefused, match=r"nothing was written: .*\(open\); --skip-existing"):
        await take(await exported(source), target)
    assert await rows_of(target) == before
    done = await take(await exported(source), target, ImportRules(skip_existing=True))
    after = await rows_of(target)
    assert [content(row) for row in after[1:]] == [content(r) for r in await rows_of(source) if r.stream_id != "open"]
    assert done["skipped"] == 3
    assert done["without_text"] == 2  # the session of that name is another one


class Interrupted(Exception):
    """As by a power cut."""


async def interrupted(
    data: bytes, target: Path, pages: int, monkeypatch: pytest.MonkeyPatch, rules: ImportRules = NO_RULES
) -> None:
    """An import that ends after `pages`."""
    add, left = ImportTarget.add, [pages]

    async def cut(self: ImportTarget, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted
        await add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ImportTarget, "add", cut)
        with pytest.raises(Interrupted):
            await take(data, target, rules)


@pytest.mark.parametrize("skip_existing", [False, True])
@pytest.mark.parametrize("pages", [1, 2, 5])
async def test_an_interrupted_import_can_be_resumed_at_any_page(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int, skip_existing: bool
) -> None:
    """Other events come before it, so that places differ and the fork's event is one that changes on its way."""
    monkeypatch.setattr("events.transfer.importer.ROWS_MAX", 3)
    target, data = tmp_path / "new.db", await exported(source)
    log = await SqliteLog.open(target)
    await log.append("theirs", 0, [posted("1")], ASKED)
    if skip_existing:
        await log.append("bobs", 0, [posted("mine")], ASKED)
    await log.close()
    own = len(await rows_of(target))
    await interrupted(data, target, pages, monkeypatch, ImportRules(skip_existing=skip_existing))
    with pytest.raises(LogIncomplete) as refused:
        await take(data, target)
    assert "--resume" in with_remedy(refused.value)
    with pytest.raises(LogIncomplete) as refused:
        await SqliteLog.open(target)
    assert "--resume" in with_remedy(refused.value)
    done = await take(data, target, ImportRules(resume=True, skip_existing=skip_existing))
    whole = [content(row) for row in await rows_of(source) if not (skip_existing and row.stream_id == "bobs")]
    assert [content(row) for row in (await rows_of(target))[own:]] == whole
    assert done["without_text"] == 0
    again = await take(data, target, ImportRules(resume=True, skip_existing=skip_existing))
    assert again["imported"] == 0


async def test_an_import_is_not_resumed_over_a_session_that_went_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.transfer.importer.ROWS_MAX", 2)
    target, data = tmp_path / "new.db", await exported(source, session="later")
    await interrupted(data, target, 1, monkeypatch)
    await mark_complete(target, WritingCommand.IMPORT)  # as after --accept-partial
    log = await SqliteLog.open(target)
    await log.append("later", 2, [posted("went on")], ASKED)
    await log.close()
    with pytest.raises(ImportRefused, match="line 4: session later has another event as its version 3"):
        await take(data, target, ImportRules(resume=True))


FORGED = "http://127.0.0.1:9#0123abcd"


async def owing(path: Path) -> None:
    """Sessions that owe replies: one that waits, one that runs with text on record, one of each, one interrupted and
    asked for again; two that owe none; and one that is being erased."""
    log = await SqliteLog.open(path)

    def asks(reply: str) -> MessagePosted:
        return MessagePosted(f"m of {reply}", None, "user", "words", reply_id=reply, node=FORGED)

    def starts(reply: str, attempt: int = 1) -> ReplyStarted:
        return ReplyStarted(reply, f"m of {reply}", FORGED, "midm", "small", PARAMETERS, (), attempt)

    async def write(name: str, *events: Event) -> None:
        await log.append(name, 0, [created(None), *events], ASKED)

    ended = ReplyCompleted("r", "answer", "stop", "small", 1)
    again = ReplyRequested("r", "m of r", attempt=2, node=FORGED)
    running = (asks("r"), starts("r"), ReplyProgressed("r", 0, "Hel"), ReplyProgressed("r", 3, "lo"))
    await write("waits", asks("r"))
    await write("runs", *running)
    await write("both", *running, asks("r2"))
    await write("again", asks("r"), starts("r"), ReplyInterrupted("r", "H", "crash"), again)
    await write("ended", asks("r"), starts("r"), ended)
    await write("alone", MessagePosted("m", None, "user", "words", node=FORGED))
    await write("erasing", SessionExpired(1, erase_reason="request", node=FORGED))
    await log.close()


OWED = {"waits": {"r": ""}, "runs": {"r": "Hello"}, "both": {"r": "Hello", "r2": ""}, "again": {"r": ""}}


async def test_an_import_closes_open_replies_and_drops_node_names(tmp_path: Path) -> None:
    await owing(tmp_path / "source.db")
    data = await exported(tmp_path / "source.db")
    assert FORGED.encode() in data
    told = await take(data, tmp_path / "new.db")
    rows = await rows_of(tmp_path / "new.db")
    assert (told["closed"], told["position"], told["digest"]) == (5, len(rows), rows[-1].digest.hex())
    log = await SqliteLog.open(tmp_path / "new.db", read_only=True)
    events = await log.read_all(limit=100)
    await log.close()
    assert all(FORGED not in (row.data or "") for row in rows)
    assert {event.metadata.cause for event in events if event.metadata.imported is None} == {"import"}
    closed: dict[str, dict[str, str]] = {}
    for event in events:
        if event.metadata.imported is None:
            assert isinstance(event.event, ReplyInterrupted)
            assert event.event.cause == "import"
            closed.setdefault(event.stream_id, {})[event.event.reply_id] = event.event.content
    assert closed == OWED
    for stream in {row.stream_id for row in rows}:
        session = None
        for event in events:
            session = evolve(session, event) if event.stream_id == stream else session
        assert session is not None
        assert (session.open_reply, session.pending) == (None, ())
        assert session.erasure == (Erasure("request") if stream == "erasing" else None)
    again = await take(data, tmp_path / "new.db", ImportRules(resume=True))
    assert (again["imported"], again["closed"]) == (0, 0)
    skipped = await take(data, tmp_path / "new.db", ImportRules(skip_existing=True))
    assert (skipped["imported"], skipped["closed"]) == (0, 0)


async def test_sessions_that_are_left_out_keep_their_open_replies(tmp_path: Path) -> None:
    """They are this log's own: its nodes go on with them."""
    await owing(tmp_path / "source.db")
    await owing(tmp_path / "other.db")
    told = await take(await exported(tmp_path / "source.db"), tmp_path / "other.db", ImportRules(skip_existing=True))
    assert (told["imported"], told["closed"]) == (0, 0)


def test_a_node_named_by_an_imported_event_is_nobodys() -> None:
    """Also where version 0.4 has imported it, and left the name."""
    created_at = RecordedEvent(1, "s", 1, "session_created", 2, 0, ASKED, created(None))
    asked = MessagePosted("m", None, "user", "words", reply_id="r", node=FORGED)
    started = ReplyStarted("r", "m", FORGED, "midm", "small", PARAMETERS, ())
    again = ReplyRequested("r2", "m", node=FORGED)
    expired = SessionExpired(1, erase_reason="request", node=FORGED)
    for metadata, node in ((ASKED, FORGED), (Metadata(imported="chatbot-log/0:1"), None)):
        session = evolve(None, created_at)
        session = evolve(session, RecordedEvent(2, "s", 2, "message_posted", 1, 0, metadata, asked))
        session = evolve(session, RecordedEvent(3, "s", 3, "reply_requested", 1, 0, metadata, again))
        assert [one.node for one in session.pending] == [node, node]
        session = evolve(session, RecordedEvent(4, "s", 4, "reply_started", 1, 0, metadata, started))
        assert session.open_reply is not None
        assert session.open_reply.node == node
        session = evolve(session, RecordedEvent(5, "s", 5, "session_expired", 1, 0, metadata, expired))
        assert session.erasure == Erasure("request", node)


def change(lines: Lines, number: int, **columns: Any) -> None:
    lines[number] |= columns


HARMS: dict[str, tuple[Callable[[Lines], object], str]] = {
    "content": (lambda lines: change(lines, 2, data=lines[2]["data"].replace("words", "wards")), "line 3.*changed"),
    "time": (lambda lines: change(lines, 4, recorded_at=1), "line 5.*does not follow"),
    "metadata": (lambda lines: change(lines, 4, metadata='{"actor":"eve"}'), "line 5.*does not follow"),
    "owner of a line": (lambda lines: change(lines, 3, stream_id="bobs"), "line 4.*does not follow"),
    "a line less": (lambda lines: lines.pop(5), "line 6.*lines are missing"),
    "lines swapped": (lambda lines: lines.insert(4, lines.pop(5)), "line 5.*missing or were moved"),
    "a line twice": (lambda lines: lines.insert(4, lines[3]), "line 5.*moved"),
    "no hexadecimal": (lambda lines: change(lines, 3, digest="zz"), "line 4.*no event"),
    "a word for a number": (lambda lines: change(lines, 3, version="2"), "line 4.*no event"),
    "erased without a reason": (lambda lines: change(lines, 3, data=None, salt=None), "open is gone at position 3"),
    "half erased": (lambda lines: change(lines, 3, data=None), "line 4.*together"),
    "another format": (lambda lines: change(lines, 0, version=3), "line 1.*update the program"),
    "another program's": (lambda lines: change(lines, 0, format="x"), "line 1.*'x'"),
    "fewer than the header says": (lambda lines: lines.pop(), "ends at position"),
    "another head": (lambda lines: change(lines, 0, digest="00" * 32), "not the one that the header names"),
}


@pytest.mark.parametrize("harm", HARMS)
async def test_a_file_that_was_changed_is_refused_with_its_line_before_anything_is_written(
    source: Path, tmp_path: Path, harm: str
) -> None:
    """Also when the trailer was recomputed after the change."""
    lines = [json.loads(line) for line in (await exported(source)).splitlines()[:-1]]
    assert (await exported(source)) == sealed_as_written(lines)
    do, reason = HARMS[harm]
    do(lines)
    with pytest.raises((ExportFileError, ImportRefused), match=reason):
        await take(sealed(lines), tmp_path / "new.db")
    if (tmp_path / "new.db").exists():
        assert await rows_of(tmp_path / "new.db") == []


def sealed_as_written(lines: Lines) -> bytes:
    text = b"".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for line in lines)
    trailer = {"events": len(lines) - 1, "sha256": hashlib.sha256(text).hexdigest()}
    return text + json.dumps(trailer, separators=(",", ":")).encode() + b"\n"


async def test_a_file_cut_anywhere_is_refused(source: Path, tmp_path: Path) -> None:
    data = await exported(source)
    for end in (*range(0, len(data) - 1, 97), len(data) - 1):
        with pytest.raises(ExportFileError, match=r"cut off here|no export"):
            await take(data[:end], tmp_path / "new.db")
    with pytest.raises(ExportFileError, match="follows the trailer"):
        await take(data + b"\n", tmp_path / "new.db")
    with pytest.raises(ExportFileError, match="trailer does not fit"):
        await take(data.replace(b'{"events":', b'{"events":1', 1), tmp_path / "new.db")


async def test_what_no_chain_covers_is_covered_by_the_trailer(source: Path, tmp_path: Path) -> None:
    """The header, and in a part of a log the envelope of an event whose predecessor was not taken."""
    data = await exported(source, owner="alice")
    after_gap = data.index(b'"stream_id":"gone"')
    for changed in (
        data.replace(b'"owner":"alice"', b'"owner":"alica"', 1),
        data[:after_gap] + data[after_gap:].replace(b"tester", b"taster", 1),
    ):
        assert changed != data
        with pytest.raises(ExportFileError, match="trailer does not fit"):
            await take(changed, tmp_path / "new.db")


@pytest.mark.parametrize(("kind", "schema_version"), [("mood_changed", 1), ("message_posted", 99)])
async def test_events_of_a_newer_program_are_refused(
    source: Path, tmp_path: Path, kind: str, schema_version: int
) -> None:
    lines = [json.loads(line) for line in (await exported(source, session="bobs")).splitlines()[:-1]]
    change(lines, 2, type=kind, schema_version=schema_version, position=lines[1]["position"] + 50)
    change(lines, 0, position=10**6)
    with pytest.raises(ExportFileError, match=r"does not know event type .*: update it"):
        await take(sealed(lines[:3]), tmp_path / "new.db")


async def test_nothing_is_imported_into_a_log_that_is_served(source: Path, tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "served.db")
    with pytest.raises(LogInUse):
        await take(await exported(source), tmp_path / "served.db")
    await log.close()


async def test_the_program_exports_beside_a_server_and_its_import_is_served_with_the_same_answers(
    tmp_path: Path, model: ModelServer
) -> None:
    async def answers(url: str, ids: list[str]) -> list[Any]:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            paths = ["/api/usage", *(f"/api/sessions/{one}/messages" for one in ids)]
            return [(await client.get(path)).json() for path in paths]

    ids = []
    other = tmp_path / "other"
    other.mkdir()
    async with program(tmp_path, model.url) as first, httpx.AsyncClient(base_url=first.url, timeout=20) as client:
        for number in range(3):
            ids.append((await client.post("/api/sessions")).json()["session_id"])
            await client.post("/api/chat", json={"session_id": ids[-1], "message": f"hello {number}"})
        fork = await client.post(f"/api/sessions/{ids[0]}/fork", json={})
        assert fork.status_code == 201, fork.text
        ids.append(fork.json()["session_id"])
        done = await run_command(tmp_path, "export")
        assert done.returncode == 0, done.stderr
        (other / "log.ndjson").write_text(done.stdout)
        refused = await run_command(tmp_path, "import", "other/log.ndjson")
        assert refused.returncode == 3
        assert f"in use by process {first.process.pid}" in refused.error_line
        before = await answers(first.url, ids)
        await first.stop()
    taken = await run_command(other, "import", "log.ndjson")
    assert taken.returncode == 0, taken.stderr
    assert json.loads(taken.stdout)["imported"] == len(done.stdout.splitlines()) - 2
    assert (await run_command(other, "verify")).returncode == 0
    async with program(other, model.url) as second:
        assert await answers(second.url, ids) == before
        async with httpx.AsyncClient(base_url=second.url, timeout=20) as client:
            await client.post("/api/chat", json={"session_id": ids[3], "message": "go on"})
        assert [m["content"] for m in model.requests[-1].body["messages"]][:2] == ["hello 0", "You said: hello 0"]


def test_commands_that_make_no_sense_say_so(tmp_path: Path) -> None:
    assert run_command_blocking(tmp_path, "export").returncode == 3
    missing = run_command_blocking(tmp_path, "import", "nothing.ndjson")
    assert missing.returncode == 2
    assert "cannot read nothing.ndjson" in missing.error_line
    assert not (tmp_path / "chatbot.db").exists()
    asyncio.run(write_sample_log(tmp_path / "chatbot.db"))
    nobody = run_command_blocking(tmp_path, "export", "--owner", "carol")
    assert nobody.returncode == 1
    assert "no such session" in nobody.error_line
