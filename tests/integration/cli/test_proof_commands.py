"""keygen, checkpoint, verify and prove as the operator and an auditor use them, each with what the other gave away."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.proof.prove import check_proof
from events.catalogue import Event
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import TRIGGERS
from tests.support.command_processes import run_command_blocking
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import ASKED, EVERY_LIVING_EVENT, deleted, posted
from tests.support.model.model_server import ModelServer
from tests.support.service import program


class Audit:
    """An operator's folder with a log, and what an auditor was given: the public key and a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "chatbot.db"

    def run(self, *arguments: str, code: int = 0, **settings: str) -> tuple[str, str]:
        """Standard output and error; the exit code must be `code`."""
        done = run_command_blocking(self.folder, *arguments, **settings)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    def refused(self, *arguments: str, code: int = 1, **settings: str) -> str:
        """Why."""
        said, why = self.run(*arguments, code=code, **settings)
        assert said == ""
        return why

    def checkpoint(self, name: str = "checkpoint", **settings: str) -> str:
        (self.folder / name).write_text(self.run("checkpoint", "--key", "key", code=0, **settings)[0])
        return name

    def prove(self, *arguments: str) -> dict[str, Any]:
        said, _ = self.run("prove", *arguments, "--checkpoint", "checkpoint")
        (self.folder / "proof").write_text(said)
        return dict(json.loads(said))

    def check(self, proof: dict[str, Any]) -> str:
        """Why it is refused; without a process of its own, for there are many ways to forge one."""
        with pytest.raises(CommandFailed) as refused:
            check_proof(json.dumps(proof), (self.folder / "key.pub").read_text())
        return str(refused.value)


async def write(path: Path, *streams: tuple[str, Sequence[Event]], erase: str = "") -> None:
    log = await SqliteLog.open(path)
    await put_sample_files(log)
    for name, events in streams:
        version = len(await log.read(name, limit=1000))
        await log.append(name, version, events, ASKED)
    if erase:
        await log.erase(erase, len(await log.read(erase, limit=1000)), deleted(), ASKED)
    await log.close()


@pytest.fixture
async def audit(tmp_path: Path) -> Audit:
    """A log with an event of nearly every kind and a stream that is erased; keys; a checkpoint of it."""
    audit = Audit(tmp_path)
    await write(audit.log, ("a", EVERY_LIVING_EVENT), ("b", [posted("secret"), posted("too")]), erase="b")
    await write(audit.log, ("c", [posted("c")]))
    await asyncio.to_thread(audit.run, "keygen", "key")
    await asyncio.to_thread(audit.checkpoint)
    return audit


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (*(f"DROP TRIGGER IF EXISTS {name}" for name in TRIGGERS), *statements):
            connection.execute(statement)


def test_the_checkpoint_holds_now_and_on_a_copied_file_and_after_the_log_has_grown(audit: Audit) -> None:
    with_it = ("verify", "--checkpoint", "checkpoint", "--key", "key.pub")
    total = len(EVERY_LIVING_EVENT) + 4
    assert f"agrees with the checkpoint of {total} events" in audit.run(*with_it)[0]
    shutil.copy(audit.log, audit.folder / "copy.db")
    asyncio.run(write(audit.log, ("c", [posted("later")])))
    assert f"{total + 1} events" in audit.run(*with_it)[0]
    copied = audit.run(*with_it, DATABASE_URL=str(audit.folder / "copy.db"))[0]
    assert f"{total} events, 2 of them erased" in copied
    key = (audit.folder / "key.pub").read_text().strip()
    assert audit.run("verify", "--checkpoint", "checkpoint", "--key", key)[0], "the key itself does as well as a file"


def test_verify_goes_on_from_a_position_whose_digest_was_noted(audit: Audit) -> None:
    with closing(sqlite3.connect(audit.log)) as log:
        digest = log.execute("SELECT hex(digest) FROM events WHERE position = 5").fetchone()[0].lower()
    edit(audit.log, "UPDATE events SET recorded_at = 0 WHERE position = 3")
    said = audit.run("verify", "--from", f"5:{digest}", "--checkpoint", "checkpoint", "--key", "key.pub")[0]
    assert f"after position 5: {len(EVERY_LIVING_EVENT) - 1} events, 2 of them erased" in said
    head = said.partition("digest ")[2][:64]
    said = audit.run("verify", "--from", f"{len(EVERY_LIVING_EVENT) + 4}:{head}")[0]
    assert "0 events, 0 of them erased" in said
    assert "position 3" in audit.refused("verify")
    assert "position 5" in audit.refused("verify", "--from", f"5:{'0' * 64}")
    assert "cut off" in audit.refused("verify", "--from", f"999:{digest}")
    assert "POSITION:DIGEST" in audit.refused("verify", "--from", "5", code=2)


def test_a_cut_tail_and_a_log_computed_anew_are_found_beside_the_checkpoint(audit: Audit) -> None:
    with_it = ("verify", "--checkpoint", "checkpoint", "--key", "key.pub")
    edit(audit.log, "DELETE FROM events WHERE position = (SELECT max(position) FROM events)")
    audit.run("verify")
    assert f"position {len(EVERY_LIVING_EVENT) + 4}" in audit.refused(*with_it)
    assert "the log ends at position" in audit.refused("prove", "--session", "a", "--checkpoint", "checkpoint")


def test_a_log_that_does_not_hold_is_not_signed(audit: Audit) -> None:
    edit(audit.log, "UPDATE events SET metadata = '{}' WHERE position = 4")
    assert "position 4" in audit.refused("checkpoint", "--key", "key")


def test_an_empty_log_is_whole_but_there_is_nothing_to_sign(audit: Audit) -> None:
    empty = str(audit.folder / "empty.db")
    asyncio.run(write(Path(empty)))
    assert "0 events" in audit.run("verify", DATABASE_URL=empty)[0]
    assert "empty" in audit.refused("checkpoint", "--key", "key", DATABASE_URL=empty)
    with_it = ("verify", "--checkpoint", "checkpoint", "--key", "key.pub")
    assert "position 1" in audit.refused(*with_it, DATABASE_URL=empty)


def test_another_logs_checkpoint_is_told_for_what_it_is(audit: Audit) -> None:
    other = str(audit.folder / "other.db")
    asyncio.run(write(Path(other), ("a", EVERY_LIVING_EVENT), ("b", [posted("x")] * 9)))
    audit.checkpoint("others", DATABASE_URL=other)
    assert "of another log" in audit.refused("verify", "--checkpoint", "others", "--key", "key.pub")
    why = audit.refused("prove", "--session", "a", "--checkpoint", "others")
    assert "does not agree" in why or "ends at position" in why
    audit.prove("--session", "a")
    against = ("verify", "--proof", "proof", "--key", "key.pub", "--checkpoint")
    assert "another checkpoint" in audit.refused(*against, "others")
    audit.run(*against, "checkpoint")


def test_a_signature_of_somebody_else_or_a_changed_checkpoint_is_refused(audit: Audit) -> None:
    audit.run("keygen", "theirs")
    with_it = ("verify", "--checkpoint", "checkpoint", "--key")
    assert "not signed" in audit.refused(*with_it, "theirs.pub")
    assert "--key" in audit.refused("verify", "--checkpoint", "checkpoint", code=2)
    assert "cannot read" in audit.refused("verify", "--checkpoint", "none", "--key", "key.pub", code=2)
    note = (audit.folder / "checkpoint").read_text()
    (audit.folder / "checkpoint").write_text(note.replace(f"\n{len(EVERY_LIVING_EVENT) + 4}\n", "\n3\n"))
    assert "does not fit" in audit.refused(*with_it, "key.pub")
    assert "keygen" in audit.refused("checkpoint", "--key", "key.pub", code=2)


def test_a_proof_shows_one_session_without_the_log(audit: Audit) -> None:
    proof = audit.prove("--session", "a")
    assert [event["version"] for event in proof["events"]] == list(range(1, len(EVERY_LIVING_EVENT) + 1))
    audit.log.unlink()
    said = audit.run("verify", "--proof", "proof", "--key", "key.pub")[0]
    assert f"{len(EVERY_LIVING_EVENT)} events are in the log of chatbot-log/" in said


def test_a_proof_says_whether_an_older_program_can_check_it(audit: Audit) -> None:
    assert audit.prove("--session", "a")["version"] == 3, "it has events with parts"
    assert audit.prove("--session", "a", "--version", "1", "--partial")["version"] == 2


def test_a_proof_of_one_event_and_of_erased_ones(audit: Audit) -> None:
    assert len(audit.prove("--session", "a", "--version", "3", "--partial")["events"]) == 1
    proof = audit.prove("--session", "b")
    assert [(event["type"], event["data"] is None) for event in proof["events"]] == [
        ("message_posted", True),
        ("message_posted", True),
        ("session_deleted", False),
    ]
    said = audit.run("verify", "--proof", "proof", "--key", "key.pub")[0]
    assert "3 events (2 of them erased: their envelopes only)" in said
    assert "secret" not in json.dumps(proof)


def test_events_after_the_checkpoint_are_left_out_and_told(audit: Audit) -> None:
    asyncio.run(write(audit.log, ("c", [posted("later")]), ("d", [posted("new")])))
    _, told = audit.run("prove", "--session", "c", "--checkpoint", "checkpoint")
    assert "1 newer events are not in the checkpoint" in told
    assert "older than these events" in audit.refused("prove", "--session", "d", "--checkpoint", "checkpoint")
    assert "has none" in audit.refused("prove", "--session", "none", "--checkpoint", "checkpoint")


def test_every_field_of_a_proof_is_protected(audit: Audit) -> None:
    proof = audit.prove("--session", "c")
    (event,) = proof["events"]
    salted = {"salt": event["salt"] + event["data"][:2].encode().hex(), "data": event["data"][2:]}
    forgeries = [
        *({name: _changed(value)} for name, value in event.items()),
        {"path": event["path"][:-1]},
        {"path": [*event["path"], "00" * 32]},
        {"data": None},
        {"salt": None},
        {"position": -1},
        {"position": 10**18},
        {"recorded_at": -1},
        {"commitment": "not hexadecimal"},
        {"previous": event["previous"] + "00"},
        salted,
    ]
    for forgery in forgeries:
        assert "not proven" in audit.check({**proof, "events": [{**event, **forgery}]}), forgery
    (audit.folder / "forged").write_text(json.dumps({**proof, "events": [{**event, "type": "x"}]}))
    assert "not proven" in audit.refused("verify", "--proof", "forged", "--key", "key.pub")
    assert "holds no events" in audit.check({**proof, "events": []})
    assert "proves nothing" in audit.check({"events": [event]})
    changed = proof["checkpoint"].replace("digest ", "digest 0", 1)
    assert "proves nothing" in audit.check({**proof, "checkpoint": changed})


def _changed(value: Any) -> Any:
    if isinstance(value, list):
        return value[::-1] if value != value[::-1] else [*value, value[0]]
    if isinstance(value, int):
        return value + 1
    return value[:-1] + ("0" if value[-1] != "0" else "1")


def test_a_row_that_was_changed_is_not_proven(audit: Audit) -> None:
    edit(audit.log, "UPDATE events SET data = replace(data, '\"c\"', '\"d\"') WHERE stream_id = 'c'")
    why = audit.refused("prove", "--session", "c", "--checkpoint", "checkpoint")
    assert "cannot be proven" in why


async def test_checkpoint_verify_and_prove_hold_while_the_service_writes(tmp_path: Path, model: ModelServer) -> None:
    audit = Audit(tmp_path)
    await asyncio.to_thread(audit.run, "keygen", "key")
    async with program(tmp_path, model.url) as running, httpx.AsyncClient(base_url=running.url, timeout=30) as client:
        first = (await client.post("/api/sessions")).json()["session_id"]
        stop = asyncio.Event()

        async def write_and_erase() -> int:
            rounds = 0
            while not stop.is_set():
                session_id = (await client.post("/api/sessions")).json()["session_id"]
                await client.post("/api/chat", json={"session_id": session_id, "message": "words"})
                await client.delete(f"/api/sessions/{session_id}")
                rounds += 1
            return rounds

        writing = [asyncio.create_task(write_and_erase()) for _ in range(4)]
        for _ in range(3):
            await asyncio.to_thread(audit.checkpoint)
            with_it = ("verify", "--checkpoint", "checkpoint", "--key", "key.pub")
            assert "it agrees" in (await asyncio.to_thread(audit.run, *with_it))[0]
            await asyncio.to_thread(audit.prove, "--session", first)
            await asyncio.to_thread(audit.run, "verify", "--proof", "proof", "--key", "key.pub")
        stop.set()
        assert sum(await asyncio.gather(*writing)) > 0
        assert await running.stop() == 0
    await asyncio.to_thread(audit.run, *with_it)
