"""One service as the witness of another's log: what it signs, what it refuses, and what it keeps of it."""

import asyncio
import base64
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from chatbot.anchors import witness as witness_module
from chatbot.anchors.anchor_target import TargetContradicts, TargetUnavailable, is_incomplete
from chatbot.anchors.anchor_writer import AnchorWriter, Outcome
from chatbot.anchors.targets.target_factory import open_target
from chatbot.anchors.witness import Cosigned
from chatbot.api.routes import witness_routes
from events.catalogue import WITNESS
from events.integrity.consistency_proof import ConsistencyTree
from events.integrity.cosignature import check_cosignature
from events.integrity.log_identity import log_identity
from events.integrity.signed_checkpoint import COSIGNATURE, LogCheckpoint, make_key, sign
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.corruption import cut_off
from tests.support.log.sample_events import ASKED, posted
from tests.support.service import Running, serving

ORIGIN = "chatbot-log/" + "a" * 32
SIGNER, VERIFIER = make_key("log")
WITNESS_SIGNER, WITNESS_VERIFIER = make_key("witness.example/w", COSIGNATURE)
NOBODY = "http://127.0.0.1:9"  # a model server that is not needed


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    (tmp_path / "witness.key").write_text(WITNESS_SIGNER)
    settings = {
        "CHATBOT_WITNESS_KEY_FILE": str(tmp_path / "witness.key"),
        "CHATBOT_WITNESS_LOGS": f"{ORIGIN} {VERIFIER}",
        "CHATBOT_API_KEYS": "mina:a-long-secret-of-hers",  # the witness needs none
    }
    async with serving(tmp_path, NOBODY, **settings) as running:
        yield running


def tree_of(count: int, *sizes: int, text: str = "") -> ConsistencyTree:
    tree = ConsistencyTree(sizes)
    for number in range(count):
        tree.add(hashlib.sha256(f"{text}{number}".encode()).digest())
    return tree


def body(tree: ConsistencyTree, old: int, *, origin: str = ORIGIN, signer: str = SIGNER) -> str:
    note = sign(LogCheckpoint(origin, tree.size, tree.root(), bytes(32), "2026-01-31T09:30:00Z"), signer)
    lines = "".join(f"{base64.b64encode(one).decode()}\n" for one in tree.proof(old) or [])
    return f"old {old}\n{lines}\n{note}"


async def add(service: Running, content: str) -> httpx.Response:
    return await service.client.post("/witness/add-checkpoint", content=content.encode())


async def test_a_log_that_grows_is_cosigned_and_what_was_seen_is_in_the_chain(service: Running) -> None:
    first = await add(service, body(tree_of(5), 0))
    assert first.status_code == 200, first.text
    grown = body(tree_of(12, 5), 5)
    second = await add(service, grown)
    assert second.status_code == 200, second.text
    note = grown.partition("\n\n")[2]
    assert check_cosignature(note + second.text, WITNESS_VERIFIER) > 0
    seen = await service.services.log.read(WITNESS, limit=10)
    assert [getattr(one.event, "size", None) for one in seen] == [5, 12]
    shown = await service.client.get(f"/witness/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint")
    assert shown.status_code == 200
    assert shown.text.startswith(note)
    assert check_cosignature(shown.text, WITNESS_VERIFIER) > 0


async def test_a_repeated_checkpoint_is_cosigned_again_and_not_recorded_again(service: Running) -> None:
    assert (await add(service, body(tree_of(5), 0))).status_code == 200
    assert (await add(service, body(tree_of(5, 5), 5))).status_code == 200
    assert len(await service.services.log.read(WITNESS, limit=10)) == 1


async def test_what_the_witness_refuses_is_refused_as_the_protocol_says(service: Running) -> None:
    assert (await add(service, body(tree_of(8), 0))).status_code == 200
    conflict = await add(service, body(tree_of(9, 3), 3))
    assert (conflict.status_code, conflict.text) == (409, "8\n")
    assert conflict.headers["Content-Type"].startswith("text/x.tlog.size")
    statuses = {
        "rolled back": (body(tree_of(6, 8), 8), 400),
        "same size, other root": (body(tree_of(8, 8, text="x"), 8), 422),
        "other tree": (body(tree_of(9, 8, text="x"), 8), 422),
        "no proof": (f"old 8\n\n{body(tree_of(9, 8), 8).partition(chr(10) * 2)[2]}", 422),
        "unknown log": (body(tree_of(9, 8), 8, origin="chatbot-log/other"), 404),
        "unknown key": (body(tree_of(9, 8), 8, signer=make_key("log")[0]), 403),
        "no form": ("hello", 400),
        "old size with a zero": (body(tree_of(9, 8), 8).replace("old 8", "old 08"), 400),
        "too large": ("old 0\n\n" + "x" * 100_000, 413),
    }
    for name, (content, status) in statuses.items():
        answer = await add(service, content)
        assert answer.status_code == status, (name, answer.text)
    assert len(await service.services.log.read(WITNESS, limit=10)) == 1
    assert (await add(service, body(tree_of(9, 8), 8))).status_code == 200


async def test_only_logs_that_were_seen_have_a_checkpoint(service: Running) -> None:
    for name in (hashlib.sha256(ORIGIN.encode()).hexdigest(), "x", "0" * 64):
        assert (await service.client.get(f"/witness/{name}/checkpoint")).status_code == 404


async def test_two_processes_that_witness_at_the_same_time_record_one_history(service: Running) -> None:
    contents = [body(tree_of(size), 0) for size in range(2, 9)]
    answers = await asyncio.gather(*(add(service, content) for content in contents))
    assert sorted(one.status_code for one in answers) == [200] + [409] * 6


async def test_too_many_requests_are_refused_before_they_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "witness.key").write_text(WITNESS_SIGNER)
    settings = {
        "CHATBOT_WITNESS_KEY_FILE": str(tmp_path / "witness.key"),
        "CHATBOT_WITNESS_LOGS": f"{ORIGIN} {VERIFIER}",
        "CHATBOT_WITNESS_REQUESTS_PER_MINUTE": "2",
    }
    async with serving(tmp_path, NOBODY, **settings) as service:
        statuses = [(await add(service, "hello")).status_code for _ in range(3)]
        assert statuses == [400, 400, 503]


async def test_a_service_that_is_no_witness_has_no_such_path(tmp_path: Path) -> None:
    async with serving(tmp_path, NOBODY) as service:
        assert (await add(service, body(tree_of(5), 0))).status_code == 404


async def test_a_service_as_the_target_of_anchors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, each time as after a restart; then a log that was rolled back."""
    log = await SqliteLog.open(tmp_path / "anchored.db")
    await log.append("a", 0, [posted(str(number)) for number in range(5)], ASKED)
    origin = await log_identity(log)
    (tmp_path / "witness.key").write_text(WITNESS_SIGNER)
    settings = {
        "CHATBOT_WITNESS_KEY_FILE": str(tmp_path / "witness.key"),
        "CHATBOT_WITNESS_LOGS": f"{origin} {VERIFIER}",
    }
    async with serving(tmp_path, NOBODY, **settings) as service:
        url = f"{service.url.rstrip('/')}/witness#{WITNESS_VERIFIER}"
        for events in (6, 7, 9):
            await log.append("a", log.head().position, [posted("more")] * (events - log.head().position), ASKED)
            target = open_target(url)
            (result,) = await AnchorWriter(log, [target], SIGNER).anchor()
            assert result.outcome is Outcome.WRITTEN, result
            (again,) = await AnchorWriter(log, [target], SIGNER).anchor()
            assert again.outcome is Outcome.PRESENT
            (anchor,) = await target.read_all(origin)
            assert anchor.name.endswith(f"{events:020}")
            await target.close()
        await log.close()
        shutil.copy(tmp_path / "anchored.db", tmp_path / "shorter.db")
        cut_off(tmp_path / "shorter.db", 7)
        shorter = await SqliteLog.open(tmp_path / "shorter.db")
        target = open_target(url)
        (result,) = await AnchorWriter(shorter, [target], SIGNER).anchor()
        assert result.outcome is Outcome.CONTRADICTED
        assert "an anchor of 9 events exists, but the log has 7" in str(result.reason)
        await target.close()
        target = open_target(url)
        monkeypatch.setattr(target, "newest", lambda _: asyncio.sleep(0))  # as of a witness that shows nothing
        (result,) = await AnchorWriter(shorter, [target], SIGNER).anchor()
        assert "an anchor of 9 events exists, but the log has 7" in str(result.reason)
        await target.close()
        await shorter.close()
        other = open_target(url.partition("#")[0] + f"#{make_key('w', COSIGNATURE)[1]}")
        with pytest.raises(TargetUnavailable, match="the answer is not the witness's"):
            await other.newest(origin)
        await other.close()


async def test_a_witness_that_shows_nothing_names_the_size_and_gets_its_proof(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a witness of somebody else may: only add-checkpoint."""
    log = await SqliteLog.open(tmp_path / "anchored.db")
    await log.append("a", 0, [posted(str(number)) for number in range(4)], ASKED)
    origin = await log_identity(log)
    witness = service.services.anchoring.witness
    assert witness is not None
    witness._logs = {origin: [VERIFIER]}
    target = open_target(f"{service.url.rstrip('/')}/witness")
    assert (await AnchorWriter(log, [target], SIGNER).anchor())[0].outcome is Outcome.WRITTEN
    await log.append("a", 4, [posted("more")] * 3, ASKED)
    forgetful = open_target(f"{service.url.rstrip('/')}/witness")
    monkeypatch.setattr(forgetful, "newest", lambda _: asyncio.sleep(0))
    (result,) = await AnchorWriter(log, [forgetful], SIGNER).anchor()
    assert result.outcome is Outcome.WRITTEN, result
    await target.close()
    await forgetful.close()
    await log.close()


async def test_what_else_a_witness_sends_does_not_get_into_the_anchors_of_others(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long an anchor could not be read any more, and would prove nothing."""
    log = await SqliteLog.open(tmp_path / "anchored.db")
    await log.append("a", 0, [posted("one")], ASKED)
    origin = await log_identity(log)
    witness = service.services.anchoring.witness
    assert witness is not None
    witness._logs = {origin: [VERIFIER]}
    monkeypatch.setattr(witness_routes, "Cosigned", Talkative)
    monkeypatch.setattr(witness_module, "Cosigned", Talkative)
    (tmp_path / "anchors").mkdir()
    url = f"{service.url.rstrip('/')}/witness#{WITNESS_VERIFIER}"
    targets = [open_target(url), open_target(str(tmp_path / "anchors"))]
    results = await AnchorWriter(log, targets, SIGNER).anchor()
    assert [one.outcome for one in results] == [Outcome.WRITTEN] * 2
    (anchor,) = await targets[1].read_all(origin)
    assert not is_incomplete(anchor.text)
    assert check_cosignature(anchor.text, WITNESS_VERIFIER) > 0
    for target in targets:
        await target.close()
    await log.close()


class Talkative(Cosigned, frozen=True):
    """Has lines of others, too."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "lines", self.lines + "\u2014 other AAAA\n" * 1_080)


def test_a_contradiction_is_no_failure() -> None:
    assert not issubclass(TargetContradicts, TargetUnavailable)
