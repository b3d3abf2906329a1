"""What every store promises of files: kept while something refers to them, and no longer."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from events.errors import LogUnavailable, VersionConflict
from events.log import EventLog
from events.media import MEDIA_CHUNK_BYTES, MediaMissing, MediaReference, MediaStat, MediaTooLarge, NoMedia
from events.record import Metadata
from events.storage.media_upload import ARRIVAL_MAX_US, PIECE_BYTES
from tests.support.log.log_texts import ALL
from tests.support.log.media import BYTES_MAX, FAR_US, OWNER, digest_of, file_bytes, pieces, put, read, shown
from tests.support.log.sample_events import deleted, posted
from tests.support.log.stores import Stores

ASKED = Metadata(actor=OWNER)
SIZES = [
    1,
    2,
    4091,
    4092,
    4093,
    MEDIA_CHUNK_BYTES - 1,
    MEDIA_CHUNK_BYTES,
    MEDIA_CHUNK_BYTES + 1,
    PIECE_BYTES,
    1_234_567,
]


@pytest.fixture
async def log(stores: Stores) -> EventLog:
    opened = await stores.open()
    if isinstance(opened.media, NoMedia):
        pytest.skip("this store keeps no files yet")
    return opened


async def references(log: EventLog, stat: MediaStat, holder: str | None = None) -> list[MediaReference]:
    return await log.media.references(stat.sha256, limit=ALL, holder=holder)


async def is_kept(log: EventLog, *stats: MediaStat) -> list[bool]:
    found = await log.media.stat([stat.sha256 for stat in stats])
    return [stat.sha256 in found for stat in stats]


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_is_read_as_it_was_put(log: EventLog, size: int) -> None:
    content = file_bytes(size)
    stat = await put(log, content)
    assert stat == MediaStat(digest_of(content), "image/png", size)
    assert await log.media.stat([stat.sha256]) == {stat.sha256: stat}
    assert await read(log, stat.sha256) == content


async def test_any_range_of_a_file_is_read(log: EventLog) -> None:
    content = file_bytes(PIECE_BYTES + MEDIA_CHUNK_BYTES + 100)
    stat = await put(log, content)
    borders = [0, 1, MEDIA_CHUNK_BYTES - 1, MEDIA_CHUNK_BYTES, PIECE_BYTES, PIECE_BYTES + 1, len(content) - 1]
    for start in borders:
        for end in (*borders, len(content), len(content) + 10):
            assert await read(log, stat.sha256, start, end) == content[start : max(start, end)], (start, end)
    assert await read(log, stat.sha256, len(content) - 5) == content[-5:]
    assert await read(log, stat.sha256, len(content) + 5) == b""


async def test_pieces_that_are_read_are_at_most_a_chunk(log: EventLog) -> None:
    stat = await put(log, file_bytes(3 * MEDIA_CHUNK_BYTES))
    assert [len(piece) async for piece in log.media.read(stat.sha256)] == [MEDIA_CHUNK_BYTES] * 3


async def test_of_two_puts_of_the_same_bytes_one_is_kept_with_its_type(log: EventLog) -> None:
    content = file_bytes(100_000)
    first = await put(log, content, media_type="image/png")
    second = await put(log, content, media_type="image/gif", holder="bob")
    assert second == first
    assert set(await references(log, first)) == {MediaReference(0, OWNER), MediaReference(0, "bob")}
    assert await read(log, first.sha256) == content


async def test_puts_at_once_do_not_mix(log: EventLog) -> None:
    contents = [file_bytes(700_000, seed) for seed in range(6)]
    stats = await asyncio.gather(*(put(log, content) for content in contents))
    for stat, content in zip(stats, contents, strict=True):
        assert await read(log, stat.sha256) == content


async def test_puts_of_the_same_bytes_at_once_keep_one_file(log: EventLog) -> None:
    content = file_bytes(700_000)
    stats = await asyncio.gather(*(put(log, content, holder=f"{number}") for number in range(4)))
    assert set(stats) == {MediaStat(digest_of(content), "image/png", len(content))}
    assert len(await references(log, stats[0])) == 4
    assert await read(log, stats[0].sha256) == content


async def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(log: EventLog) -> None:
    content = file_bytes(PIECE_BYTES + 1)
    with pytest.raises(MediaTooLarge) as refusal:
        await log.media.put("image/png", pieces(content), holder=OWNER, due_at_us=FAR_US, bytes_max=PIECE_BYTES)
    assert refusal.value.bytes_max == PIECE_BYTES
    assert await log.media.stat([digest_of(content)]) == {}
    assert await log.media.unused_bytes(OWNER) == 0
    fits = await log.media.put("image/png", pieces(content[:-1]), holder=OWNER, due_at_us=FAR_US, bytes_max=PIECE_BYTES)
    assert fits.bytes == PIECE_BYTES


async def test_an_empty_file_and_a_file_without_type_are_refused(log: EventLog) -> None:
    with pytest.raises(ValueError, match="empty"):
        await put(log, b"")
    with pytest.raises(ValueError, match="media type"):
        await put(log, b"x", media_type="")
    with pytest.raises(ValueError, match="media type"):
        await put(log, b"x", media_type="x" * 200)


async def test_a_put_whose_source_fails_leaves_nothing(log: EventLog, stores: Stores) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield file_bytes(PIECE_BYTES + 1)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        await log.media.put("image/png", broken(), holder=OWNER, due_at_us=FAR_US, bytes_max=BYTES_MAX)
    assert await log.media.unused_bytes(OWNER) == 0
    assert await log.media.delete_due(stores.clock()) == PIECE_BYTES


async def test_a_put_that_is_cancelled_leaves_nothing(log: EventLog, stores: Stores) -> None:
    began = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield file_bytes(PIECE_BYTES)
        began.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(
        log.media.put("image/png", endless(), holder=OWNER, due_at_us=FAR_US, bytes_max=BYTES_MAX)
    )
    await began.wait()
    task.cancel()
    await asyncio.wait([task])
    assert await log.media.delete_due(stores.clock()) == PIECE_BYTES


async def test_an_arrival_that_gets_nothing_for_an_hour_is_given_up(log: EventLog, stores: Stores) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield file_bytes(PIECE_BYTES)
        began.set()
        await goes_on.wait()
        yield file_bytes(PIECE_BYTES)

    task = asyncio.create_task(log.media.put("image/png", slow(), holder=OWNER, due_at_us=FAR_US, bytes_max=BYTES_MAX))
    await began.wait()
    await asyncio.sleep(0)
    assert await log.media.delete_due(stores.clock()) == 0
    assert await log.media.delete_due(stores.clock() + ARRIVAL_MAX_US + 60_000_000) == PIECE_BYTES
    goes_on.set()
    with pytest.raises(LogUnavailable, match="given up"):
        await task


async def test_what_is_not_there_is_absent_or_missing(log: EventLog) -> None:
    unknown = digest_of(b"unknown")
    assert await log.media.stat([unknown]) == {}
    assert await log.media.stat([]) == {}
    assert await log.media.references(unknown, limit=ALL) == []
    assert await log.media.unused_bytes("nobody") == 0
    with pytest.raises(MediaMissing) as missing:
        await read(log, unknown)
    assert missing.value.sha256 == unknown


async def test_an_append_refers_to_the_files_of_its_parts_and_takes_its_actors_upload(log: EventLog) -> None:
    stat, other = await put(log, b"1" * 1000), await put(log, b"2" * 1000, holder="bob")
    await log.media.put("image/png", pieces(b"1" * 1000), holder="bob", due_at_us=FAR_US, bytes_max=BYTES_MAX)
    assert await log.media.unused_bytes(OWNER) == 1000
    (recorded,) = await log.append("a", 0, [shown(stat, other, stat)], ASKED)
    assert await references(log, stat) == [MediaReference(recorded.position, "a"), MediaReference(0, "bob")]
    assert await references(log, other) == [MediaReference(recorded.position, "a"), MediaReference(0, "bob")]
    assert await log.media.unused_bytes(OWNER) == 0
    assert await log.media.unused_bytes("bob") == 0  # an event refers to both


async def test_an_append_without_an_actor_takes_the_upload_of_no_owner(log: EventLog) -> None:
    stat = await put(log, b"1", holder="")
    await log.append("a", 0, [shown(stat)], Metadata())
    assert await references(log, stat) == [MediaReference(1, "a")]


async def test_references_are_told_newest_first_bounded_and_by_holder(log: EventLog) -> None:
    stat = await put(log, b"1", holder="bob")
    for number in range(5):
        await log.append(f"s{number % 2}", number // 2, [shown(stat)], ASKED)
    assert [one.position for one in await references(log, stat)] == [5, 4, 3, 2, 1, 0]
    assert [one.position for one in await log.media.references(stat.sha256, limit=2)] == [5, 4]
    assert await references(log, stat, "s1") == [MediaReference(4, "s1"), MediaReference(2, "s1")]
    assert await references(log, stat, "bob") == [MediaReference(0, "bob")]
    assert await references(log, stat, "nobody") == []


async def test_an_append_of_a_missing_file_is_refused_alone(log: EventLog) -> None:
    stat = await put(log, b"1")
    absent = MediaStat(digest_of(b"never put"), "image/png", 9)
    results = await asyncio.gather(
        log.append("a", 0, [shown(stat)], ASKED),
        log.append("b", 0, [posted("text"), shown(stat, absent)], ASKED),
        log.append("c", 0, [posted("other")], ASKED),
        log.append("b", 0, [posted("instead")], ASKED),
        log.append("d", 3, [shown(stat)], ASKED),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [tuple, MediaMissing, tuple, tuple, VersionConflict]
    assert isinstance(results[1], MediaMissing)
    assert results[1].sha256 == absent.sha256
    assert log.head().position == 3
    assert isinstance(results[0], tuple)
    assert await references(log, stat) == [MediaReference(results[0][0].position, "a")]


async def test_an_upload_that_is_due_goes_unless_an_event_refers_to_it(log: EventLog, stores: Stores) -> None:
    now = stores.clock()
    due, used, later = [
        await put(log, file_bytes(600_000, seed), due_at_us=now + delay)
        for seed, delay in ((1, 1_000), (2, 1_000), (3, 10**12))
    ]
    await log.append("a", 0, [shown(used)], Metadata(actor="somebody else"))
    assert await log.media.delete_due(now) == 0
    assert await is_kept(log, due, used, later) == [True, True, True]
    assert await log.media.delete_due(now + 2_000) == 600_000
    assert await is_kept(log, due, used, later) == [False, True, True]
    assert await log.media.delete_due(now + 2_000) == 0
    assert await references(log, used) == [MediaReference(1, "a")]
    with pytest.raises(MediaMissing):
        await read(log, due.sha256)


async def test_putting_a_file_again_holds_it_for_longer(log: EventLog, stores: Stores) -> None:
    now = stores.clock()
    stat = await put(log, b"1", due_at_us=now + 1_000)
    await put(log, b"1", due_at_us=now + 5_000)
    await put(log, b"1", due_at_us=now + 2_000)
    assert await log.media.delete_due(now + 3_000) == 2  # what has arrived for nothing
    assert await log.media.delete_due(now + 3_000) == 0
    assert await log.media.delete_due(now + 5_000) == 1
    assert await is_kept(log, stat) == [False]


async def test_more_uploads_are_due_than_one_transaction_takes(log: EventLog, stores: Stores) -> None:
    for number in range(130):
        await put(log, file_bytes(10, number), due_at_us=1)
    assert await log.media.delete_due(stores.clock()) == 1300


async def test_an_erasure_takes_the_references_of_its_stream_and_the_files_that_nothing_else_keeps(
    log: EventLog,
) -> None:
    alone, shared, uploaded = [await put(log, file_bytes(600_000, seed)) for seed in range(3)]
    await log.append("a", 0, [shown(alone, shared, uploaded)], ASKED)
    await log.append("b", 0, [shown(shared)], ASKED)
    await put(log, file_bytes(600_000, 2), holder="bob")
    await log.erase("a", 1, deleted(), ASKED)
    assert await is_kept(log, alone, shared, uploaded) == [False, True, True]
    assert await references(log, shared) == [MediaReference(2, "b")]
    assert await references(log, uploaded) == [MediaReference(0, "bob")]
    assert await references(log, alone, "a") == []
    with pytest.raises(MediaMissing):
        await read(log, alone.sha256)
    assert await read(log, shared.sha256) == file_bytes(600_000, 1)
    assert not log.erasure_pending


async def test_a_file_is_put_again_after_its_erasure(log: EventLog) -> None:
    content = file_bytes(600_000)
    stat = await put(log, content)
    await log.append("a", 0, [shown(stat)], ASKED)
    _, again = await asyncio.gather(log.erase("a", 1, deleted(), ASKED), put(log, content))
    assert again == stat
    assert await read(log, stat.sha256) == content
    assert await references(log, stat) == [MediaReference(0, OWNER)]


async def test_an_append_after_an_erasure_misses_the_file(log: EventLog) -> None:
    stat = await put(log, b"1")
    await log.append("a", 0, [shown(stat)], ASKED)
    await log.erase("a", 1, deleted(), ASKED)
    with pytest.raises(MediaMissing):
        await log.append("b", 0, [shown(stat)], ASKED)


async def test_appends_and_erasures_that_wait_together_keep_what_is_referred_to(log: EventLog) -> None:
    stat = await put(log, file_bytes(600_000))
    await log.append("a", 0, [shown(stat)], ASKED)
    await asyncio.gather(log.erase("a", 1, deleted(), ASKED), log.append("b", 0, [shown(stat)], ASKED))
    assert await references(log, stat) == [MediaReference(3, "b")]
    assert await read(log, stat.sha256) == file_bytes(600_000)


async def test_events_after_an_erasure_keep_their_files(log: EventLog) -> None:
    before, after = await put(log, b"1"), await put(log, b"2")
    await log.append("a", 0, [shown(before)], ASKED)
    await log.erase("a", 1, deleted(), ASKED)
    await log.append("a", 2, [shown(after)], ASKED)
    await log.finish_erasure("a", 2)
    assert await is_kept(log, before, after) == [False, True]


async def test_appends_go_on_while_a_large_file_arrives(log: EventLog) -> None:
    task = asyncio.create_task(put(log, file_bytes(20 * PIECE_BYTES)))
    for version in range(50):
        await log.append("a", version, [posted("text")], ASKED)
    await task
    assert log.head().position == 50


async def test_files_outlive_the_process(stores: Stores, log: EventLog) -> None:
    stat = await put(log, file_bytes(600_000))
    await log.append("a", 0, [shown(stat)], ASKED)
    await log.close()
    again = await stores.open()
    assert await read(again, stat.sha256) == file_bytes(600_000)
    await again.erase("a", 1, deleted(), ASKED)
    assert await is_kept(again, stat) == [False]


async def test_files_are_listed_in_order_page_by_page(log: EventLog) -> None:
    stats = sorted([await put(log, file_bytes(100, seed)) for seed in range(5)], key=lambda stat: stat.sha256)
    listed: list[MediaStat] = []
    while page := await log.media.files(after=listed[-1].sha256 if listed else "", limit=2):
        assert len(page) <= 2
        listed += page
    assert listed == stats


async def test_a_snapshot_has_a_file_that_was_erased_since(log: EventLog) -> None:
    content = file_bytes(MEDIA_CHUNK_BYTES + 1)
    stat = await put(log, content)
    await log.append("s", 0, [shown(stat)], ASKED)
    async with log.snapshot() as snapshot:
        assert await snapshot.media.files(limit=9) == [stat]  # SQLite's moment is the first read
        erasing = asyncio.create_task(log.erase("s", 1, deleted(), ASKED))
        while await log.media.stat([stat.sha256]):
            await asyncio.sleep(0.01)
        assert b"".join([piece async for piece in snapshot.media.read(stat.sha256)]) == content
    await erasing
    assert await log.media.files(limit=9) == []
    assert await log.media.left_bytes() == 0
