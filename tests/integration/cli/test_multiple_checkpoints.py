"""A file with several signed checkpoints: the log is held against each of them, in whatever order they stand."""

import shutil
from argparse import Namespace
from pathlib import Path

import msgspec
import pytest

from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.proof.prove import prove
from chatbot.cli.proof.verify import checkpoint, verify_command
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.integrity.signed_checkpoint import make_key, parse, sign, split_notes
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.fake_console import FakeConsole
from tests.support.log.sample_events import ASKED, posted


class Signed:
    """A folder with keys, and logs of which checkpoints are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signer, self.verifier = make_key("auditor")
        (folder / "key").write_text(self.signer)

    def console(self, name: str) -> FakeConsole:
        return FakeConsole(Settings(database=DatabaseSettings(url=str(self.folder / name))))

    async def grow(self, name: str, *texts: str) -> None:
        log = await SqliteLog.open(self.folder / name)
        for text in texts:
            await log.append("a", log.head().position, [posted(text)], ASKED)
        await log.close()

    async def note(self, name: str) -> str:
        console = self.console(name)
        assert await checkpoint(console, Namespace(key=self.folder / "key")) == 0
        return f"{console.stdout_lines[0]}\n"

    async def verify(self, name: str, text: str, start: str | None = None) -> str:
        """What is said. Raises CommandFailed."""
        file = self.folder / "notes"
        file.write_text(text, encoding="utf-8")
        console = self.console(name)
        options = Namespace(
            no_files=False,
            start=start,
            checkpoint=file,
            proof=None,
            key=self.verifier,
            partial=False,
            show=False,
            anchors=[],
        )
        assert await verify_command(console, options) == 0
        return console.stdout_lines[0]

    async def refused(self, name: str, text: str, start: str | None = None) -> str:
        with pytest.raises(CommandFailed) as refused:
            await self.verify(name, text, start)
        assert refused.value.code == (2 if start else 1)
        return str(refused.value)


@pytest.fixture
async def signed(tmp_path: Path) -> Signed:
    """`log.db` has five events; `other.db` has the first two of them, and three others."""
    signed = Signed(tmp_path)
    await signed.grow("log.db", "1", "2")
    shutil.copy(tmp_path / "log.db", tmp_path / "two.db")
    shutil.copy(tmp_path / "log.db", tmp_path / "other.db")
    await signed.grow("log.db", "3")
    shutil.copy(tmp_path / "log.db", tmp_path / "three.db")
    await signed.grow("log.db", "4", "5")
    await signed.grow("other.db", "c")
    shutil.copy(tmp_path / "other.db", tmp_path / "other-three.db")
    await signed.grow("other.db", "d", "e")
    return signed


async def test_all_of_them_agree_in_any_order_and_spacing(signed: Signed) -> None:
    two, three, five = [await signed.note(name) for name in ("two.db", "three.db", "log.db")]
    for text in (
        two + three + five,
        five + two + three,
        f"\n{three}\n\n{five}{two}\n",
        two + three.rstrip() + "\n" + five,
    ):
        assert "agrees with 3 checkpoints, of 2, 3 and 5 events" in await signed.verify("log.db", text)
    assert "agrees with 2 checkpoints, of 2 and 2 events" in await signed.verify("log.db", two + two)


async def test_a_byte_order_mark_says_nothing(signed: Signed) -> None:
    two, five = await signed.note("two.db"), await signed.note("log.db")
    assert "agrees with the checkpoint of 5 events" in await signed.verify("log.db", f"\ufeff{five}")
    assert "2 checkpoints" in await signed.verify("log.db", f"\ufeff{two}\ufeff{five}")
    (signed.folder / "key.pub").write_text(f"\ufeff{signed.verifier}\n", encoding="utf-8")
    signed.verifier = str(signed.folder / "key.pub")
    assert "agrees with" in await signed.verify("log.db", five)


async def test_a_log_that_was_rolled_back_is_found_whatever_stands_first(signed: Signed) -> None:
    two, five = await signed.note("two.db"), await signed.note("log.db")
    for text in (two + five, five + two):
        assert "the log ends here, but 5 events were recorded" in await signed.refused("three.db", text)
        assert "not the one that was noted" in await signed.refused("other.db", text)


async def test_a_smaller_one_of_another_history_is_found(signed: Signed) -> None:
    three, five = await signed.note("other-three.db"), await signed.note("log.db")
    for text in (three + five, five + three):
        assert "event 3 is another" in await signed.refused("log.db", text)


async def test_roots_of_smaller_ones_are_compared(signed: Signed) -> None:
    two, five = await signed.note("two.db"), await signed.note("log.db")
    false = sign(msgspec.structs.replace(parse(two), root=bytes(32)), signed.signer)
    assert "of 2 events, but the tree's root does not" in await signed.refused("log.db", false + five)


async def test_one_that_is_not_signed_or_none_spoils_the_file(signed: Signed) -> None:
    two, five = await signed.note("two.db"), await signed.note("log.db")
    body = five.partition("\n\n")[0]
    stranger = sign(parse(five), make_key("stranger")[0])
    for spoilt in (two + body, f"{two}{body}\n\n", two + stranger, f"{two}a remark\n", f"{two}\na remark\n\n"):
        assert "note 2 of 2" in await signed.refused("log.db", spoilt)
    assert "note 1 of 2" in await signed.refused("log.db", f"{body}\n\n{two}")
    assert "note 1 of 2" in await signed.refused("log.db", stranger + two)


async def test_from_a_position_on_the_digests_are_compared(signed: Signed) -> None:
    two, three, five = [await signed.note(name) for name in ("two.db", "three.db", "log.db")]
    start = f"2:{parse(two).digest.hex()}"
    assert "of 3 and 5 events" in await signed.verify("log.db", three + five, start)
    later = f"3:{parse(three).digest.hex()}"
    assert "older than the position" in await signed.refused("log.db", two + five, later)


async def test_a_proof_is_made_with_one(signed: Signed) -> None:
    (signed.folder / "notes").write_text(await signed.note("two.db") + await signed.note("log.db"))
    options = Namespace(session="a", version=None, partial=False, checkpoint=signed.folder / "notes")
    with pytest.raises(CommandFailed, match="several checkpoints") as refused:
        await prove(signed.console("log.db"), options)
    assert refused.value.code == 2


def test_a_text_is_cut_into_notes() -> None:
    note = "a\nb\n\n\u2014 x y\n\u2014 z w\n"
    assert split_notes(note * 2) == [note, note]
    assert split_notes("") == [""]
    assert split_notes("a") == ["a\n"]
