"""Anchors of a log in any store: written, repeated at no cost, and compared with a log that lost its end."""

from pathlib import Path

from msgspec.structs import replace

from chatbot.anchors.anchor_writer import AnchorWriter, Outcome
from chatbot.anchors.targets.target_factory import open_target
from events.integrity.signed_checkpoint import make_key, read, sign
from events.log import EventLog
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.log.stores import Stores

SIGNER, VERIFIER = make_key("log")


async def anchored(log: EventLog, folder: Path) -> Outcome:
    (result,) = await AnchorWriter(log, [open_target(str(folder))], SIGNER).anchor()
    return result.outcome


async def test_anchors_are_of_the_log_whatever_keeps_it(stores: Stores, tmp_path: Path) -> None:
    log, folder = await stores.open(), tmp_path / "worm"
    folder.mkdir()
    assert await AnchorWriter(log, [open_target(str(folder))], SIGNER).anchor() == []
    await log.append("a", 0, [posted("one"), posted("two"), posted("three")], ASKED)
    writer = AnchorWriter(log, [open_target(str(folder))], SIGNER)
    assert [one.outcome for one in await writer.anchor()] == [Outcome.WRITTEN]
    assert [one.outcome for one in await writer.anchor()] == [Outcome.PRESENT]
    await log.erase("a", 3, deleted(), ASKED)  # the chain survives, and so do the anchors
    assert [one.outcome for one in await writer.anchor()] == [Outcome.WRITTEN]
    assert await anchored(log, folder) is Outcome.PRESENT
    newest = max(folder.rglob("0*"))
    checkpoint = read(newest.read_text(), VERIFIER)
    assert checkpoint.size == 4
    later = sign(replace(checkpoint, size=5), SIGNER)  # as of a log that had one event more
    newest.with_name(f"{5:020}").write_text(later)
    assert await anchored(log, folder) is Outcome.CONTRADICTED
