"""Proofs as somebody forges or shortens them: events taken out, statements changed, proofs of version 0.4."""

import json
from pathlib import Path
from typing import Any

import pytest

from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.proof.prove import check_proof
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.log.sample_events import ASKED, deleted, posted

EVENTS = 7


class Proofs:
    """A log of two sessions, a checkpoint of it, and its signer's keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = FakeConsole(Settings(database=DatabaseSettings(url=str(folder / "log.db"))))

    async def run(self, *arguments: str) -> str:
        """What the command prints. Raises CommandFailed."""
        self.console.stdout_lines.clear()
        assert await run_in_process(self.console, *arguments) == 0
        return "\n".join(self.console.stdout_lines)

    async def prove(self, session: str, *options: str) -> dict[str, Any]:
        note = str(self.folder / "checkpoint")
        proof: dict[str, Any] = json.loads(
            await self.run("prove", "--session", session, "--checkpoint", note, *options)
        )
        return proof

    async def verify(self, proof: dict[str, Any], *options: str) -> str:
        path = self.folder / "proof"
        path.write_text(json.dumps(proof))
        return await self.run("verify", "--proof", str(path), "--key", str(self.folder / "key.pub"), *options)

    def refusal(self, proof: dict[str, Any], *, partial: bool = False) -> str:
        """Why the proof is refused."""
        with pytest.raises(CommandFailed) as refused:
            check_proof(json.dumps(proof), (self.folder / "key.pub").read_text(), partial=partial)
        assert refused.value.code == 1
        return str(refused.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proofs")


@pytest.fixture
async def proofs(folder: Path) -> Proofs:
    proofs = Proofs(folder)
    if not (folder / "key").exists():
        log = await SqliteLog.open(folder / "log.db")
        for number in range(EVENTS):
            await log.append("a", number, [posted(f"text {number}\u2028")], ASKED)
            await log.append("b", number, [posted("b")], ASKED)
        await log.erase("b", EVENTS, deleted(), ASKED)
        await log.close()
        await proofs.run("keygen", str(folder / "key"))
        (folder / "checkpoint").write_text(await proofs.run("checkpoint", "--key", str(folder / "key")) + "\n")
    return proofs


def without(proof: dict[str, Any], *versions: int) -> dict[str, Any]:
    return {**proof, "events": [event for event in proof["events"] if event["version"] not in versions]}


def ranged(proof: dict[str, Any], **span: Any) -> dict[str, Any]:
    return {**proof, "range": {**proof["range"], **span}}


def as_of_0_4(proof: dict[str, Any]) -> dict[str, Any]:
    return {"checkpoint": proof["checkpoint"], "events": proof["events"]}


async def test_a_proof_names_session_versions_count_and_time_and_shows_contents_on_request(proofs: Proofs) -> None:
    proof = await proofs.prove("a")
    assert (proof["format"], proof["version"]) == ("chatbot-proof", 2)
    assert proof["range"] == {"session": "a", "first_version": 1, "last_version": EVENTS, "partial": False}
    said = await proofs.verify(proof)
    assert f"{EVENTS} events are in the log of chatbot-log/" in said
    assert f"session a, versions 1 to {EVENTS}, recorded 20" in said
    assert f"not proven: that the session has no events after version {EVENTS}" in said
    assert "text 0" not in said
    shown = [json.loads(line) for line in (await proofs.verify(proof, "--show")).split("\n") if line.startswith("{")]
    assert [event["data"] for event in shown] == [event["data"] for event in proof["events"]]
    assert [event["version"] for event in shown] == list(range(1, EVENTS + 1))
    erased = await proofs.verify(await proofs.prove("b"), "--show")
    assert f"{EVENTS} of them erased" in erased
    assert erased.count('"data":null') == EVENTS


TAKEN = {
    "one in the middle": ([3], "events are missing between versions 2 and 4"),
    "several": ([2, 3, 6], "events are missing between versions 1 and 4"),
    "the first": ([1], f"it holds versions 2 to {EVENTS} only"),
    "the first, and one more": ([1, 5], "events are missing between versions 4 and 6"),
    "all but the last": ([*range(1, EVENTS)], f"it holds versions {EVENTS} to {EVENTS} only"),
}


@pytest.mark.parametrize("taken", TAKEN)
async def test_a_proof_with_events_taken_out_is_refused(proofs: Proofs, taken: str) -> None:
    """Also where its statement was changed with them, and in a proof of version 0.4, which has no such statement."""
    versions, says = TAKEN[taken]
    forged = without(await proofs.prove("a"), *versions)
    left = [event["version"] for event in forged["events"]]
    restated = ranged(forged, first_version=left[0], last_version=left[-1])
    assert "but" in proofs.refusal(forged)
    assert "but" in proofs.refusal(restated)
    assert says in proofs.refusal(ranged(restated, partial=True))
    old = as_of_0_4(forged)
    assert says in proofs.refusal(old)
    said = await proofs.verify(old, "--partial")
    assert f"this proof is PARTIAL: {says}" in said
    assert "made by version 0.4" in said


async def test_gaps_are_never_accepted_where_a_range_is_stated(proofs: Proofs) -> None:
    proof = ranged(without(await proofs.prove("a"), 3), partial=True)
    assert "missing between versions 2 and 4" in proofs.refusal(proof, partial=True)


async def test_a_cut_end_is_found_by_the_stated_range(proofs: Proofs) -> None:
    proof = without(await proofs.prove("a"), EVENTS)
    assert f"states versions 1 to {EVENTS}, but holds 1 to {EVENTS - 1}" in proofs.refusal(proof)


async def test_events_of_another_session_or_in_another_order_are_refused(proofs: Proofs) -> None:
    proof, others = await proofs.prove("a"), (await proofs.prove("b"))["events"]
    mixed = sorted(proof["events"] + others, key=lambda event: int(event["position"]))
    for partial in (False, True):
        for changed in (
            {**proof, "events": proof["events"] + others},
            {**as_of_0_4(proof), "events": mixed},
            {**proof, "events": proof["events"][::-1]},
            {**proof, "events": [*proof["events"], proof["events"][-1]]},
        ):
            why = proofs.refusal(changed, partial=partial)
            assert "two sessions" in why or "stands after" in why
        assert "states session b, but holds" in proofs.refusal(ranged(proof, session="b"), partial=partial)


async def test_a_statement_can_neither_be_left_out_nor_be_of_another_format(proofs: Proofs) -> None:
    proof = await proofs.prove("a")
    assert "range" in proofs.refusal({name: value for name, value in proof.items() if name != "range"})
    assert "range" in proofs.refusal({**proof, "version": 1})
    assert "update the program" in proofs.refusal({**proof, "version": 4})
    assert "update the program" in proofs.refusal({**proof, "format": "another"})
    assert "proves nothing" in proofs.refusal(ranged(proof, first_version="1"))


async def test_a_whole_proof_of_version_0_4_holds_and_is_told_for_what_it_is(proofs: Proofs) -> None:
    said = await proofs.verify(as_of_0_4(await proofs.prove("a")))
    assert f"session a, versions 1 to {EVENTS}" in said
    assert "made by version 0.4 or older and does not state" in said
    assert "PARTIAL" not in said


async def test_a_partial_proof_needs_a_flag_when_it_is_made_and_when_it_is_verified(proofs: Proofs) -> None:
    for options in (("--version", "3"), ("--partial",)):
        with pytest.raises(CommandFailed, match="go together") as refused:
            await proofs.prove("a", *options)
        assert refused.value.code == 2
    for version in (1, 3):
        proof = await proofs.prove("a", "--version", str(version), "--partial")
        assert f"it holds versions {version} to {version} only; --partial" in proofs.refusal(proof)
        assert "PARTIAL" in await proofs.verify(proof, "--partial")
    with pytest.raises(CommandFailed, match="go with --proof"):
        await proofs.run("verify", "--partial")


async def test_a_byte_moved_between_salt_and_data_is_found_in_a_proof(proofs: Proofs) -> None:
    proof = await proofs.prove("a")
    event = proof["events"][2]
    event["salt"], event["data"] = event["salt"] + event["data"][:1].encode().hex(), event["data"][1:]
    assert "the salt has another length" in proofs.refusal(proof)
