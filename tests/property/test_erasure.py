"""Erased content leaves no trace: not in the database, not in its write-ahead log, not in any other file."""

import asyncio
import re
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.integrity.chain_verifier import verify
from events.options import LogOptions
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.nightly import scaled

MARK = re.compile(rb"<(\d{7})>")
PAGE = 4096


def marked(number: int, size: int) -> str:
    """A text of about `size` letters that is nothing but its number: a remnant of 17 letters shows it."""
    mark = f"<{number:07d}>"
    return mark * (size // len(mark) + 1)


def marks_in(directory: Path) -> set[int]:
    """The numbers of all texts that any file in `directory` holds a piece of."""
    found: set[int] = set()
    for file in directory.iterdir():
        found.update(map(int, MARK.findall(file.read_bytes())))
    return found


class Streams:
    """A log under random appends and erasures, and which texts should still be there."""

    def __init__(self, log: SqliteLog, directory: Path) -> None:
        self._log = log
        self._directory = directory
        self._number = 0
        self._versions: dict[str, int] = {}
        self._live: dict[str, set[int]] = {}

    async def append(self, stream_id: str, sizes: list[int]) -> None:
        version = self._versions.get(stream_id, 0)
        numbers = range(self._number, self._number + len(sizes))
        events = [posted(marked(number, size)) for number, size in zip(numbers, sizes, strict=True)]
        self._number += len(sizes)
        self._versions[stream_id] = version + len(sizes)
        self._live.setdefault(stream_id, set()).update(numbers)
        await self._log.append(stream_id, version, events, ASKED)

    async def erase(self, stream_id: str) -> None:
        version = self._versions.get(stream_id, 0)
        self._versions[stream_id] = version + 1
        self._live.pop(stream_id, None)
        await self._log.erase(stream_id, version, deleted(), ASKED)

    def check(self) -> None:
        """Everything live is there, and nothing else."""
        assert marks_in(self._directory) == set[int]().union(*self._live.values())

    @property
    def names(self) -> list[str]:
        return list(self._versions)


sizes = st.lists(st.one_of(st.integers(0, 6000), st.integers(PAGE - 400, PAGE + 100)), min_size=1, max_size=4)
steps = st.lists(st.tuples(st.integers(0, 5), st.one_of(sizes, sizes, sizes, st.none())), min_size=1, max_size=60)


@given(steps)
@settings(max_examples=scaled(40), deadline=None)  # the disk decides how long an fsync takes
def test_erased_content_is_in_no_file_when_erase_returns(steps: list[tuple[int, list[int] | None]]) -> None:
    async def run(directory: Path) -> None:
        log = await SqliteLog.open(directory / "log.db", LogOptions(read_connections=1))
        streams = Streams(log, directory)
        for number, appended in steps:
            if appended is None:
                await streams.erase(f"s{number}")
                streams.check()
            else:
                await streams.append(f"s{number}", appended)
        assert (await verify(log))[1] is None
        await log.close()
        streams.check()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


@pytest.mark.parametrize("size_max", [150, 1200, 6000])
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_big_log_keeps_no_trace_of_what_was_erased_all_over_it(
    tmp_path: Path, size_max: int, seed: int
) -> None:
    """Many streams share each page; erasing them one by one empties, merges and frees pages in every way."""
    random = Random(seed)
    log = await SqliteLog.open(tmp_path / "log.db", LogOptions(read_connections=1))
    streams = Streams(log, tmp_path)
    for _ in range(24):
        for _ in range(25):
            sizes = [random.randrange(size_max) for _ in range(random.randrange(1, 4))]
            await streams.append(f"s{random.randrange(150)}", sizes)
        await streams.erase(random.choice(streams.names))
        streams.check()
    for stream_id in random.sample(streams.names, 40):
        await streams.erase(stream_id)
    streams.check()
    assert (await verify(log))[1] is None
    await log.close()
