"""A small log with everything that a copy of it must get right: owners, a fork, an erased session, several branches."""

from pathlib import Path
from typing import Any

import msgspec

from events.catalogue import (
    AdoptedMessage,
    Event,
    HistoryAdopted,
    MessagePosted,
    Origin,
    ReplyCompleted,
    SessionCreated,
    SessionDeleted,
)
from events.integrity.chain_verifier import verify
from events.record import Metadata, StoredRow
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.importer import NODE_NAMING_TYPES
from tests.support.log.sample_events import ASKED, USAGE

ALL = 100_000


def created(owner: str | None, forked_from: Origin | None = None) -> SessionCreated:
    return SessionCreated(owner=owner, metadata={}, timeout_s=10**9, forked_from=forked_from)


def said(name: str, *, parent: str | None = None) -> tuple[Event, Event]:
    """A message and its reply."""
    reply = f"{name} said"
    return (
        MessagePosted(name, parent, "user", f"words of {name}", reply_id=reply),
        ReplyCompleted(reply, f"answer to {name}", "stop", "small", 1000, USAGE),
    )


async def write_sample_log(path: Path) -> None:
    """Sessions: `open` of nobody, `fork` of alice taken from it, `bobs`, `gone` of alice, erased, `later` of alice."""
    log = await SqliteLog.open(path)
    first = await log.append("open", 0, [created(None), *said("m1")], ASKED)
    await log.append("bobs", 0, [created("bob"), *said("m2")], Metadata(actor="bob", request_id="r-9"))
    await log.append("gone", 0, [created("alice"), *said("m3")], ASKED)
    adopted = HistoryAdopted(
        (
            AdoptedMessage("m1", None, "user", "complete", first[1].position, first[1].recorded_at_us),
            AdoptedMessage("m1 said", "m1", "assistant", "complete", first[2].position, first[2].recorded_at_us),
        )
    )
    forked = created("alice", Origin("open", 3, "m1 said"))
    await log.append("fork", 0, [forked, adopted, *said("m4", parent="m1 said")], ASKED)
    await log.erase("gone", 3, SessionDeleted(reason="asked", owner="alice"), ASKED)
    await log.append("later", 0, [created("alice"), *said("m5")], Metadata(cause="test"))
    await log.append("bobs", 3, said("m6", parent="m2 said"), ASKED)
    await log.close()


async def rows_of(path: Path) -> list[StoredRow]:
    """Every row; the log must hold."""
    log = await SqliteLog.open(path, read_only=True)
    try:
        assert (await verify(log))[1] is None
        return await log.rows(limit=ALL)
    finally:
        await log.close()


def content(row: StoredRow, *, nodes: bool = True) -> tuple[Any, ...]:
    """What a copy keeps of a row: all but place and chain, and in a history_adopted the places that it names. Without
    `nodes`, what an import keeps of events that may name one.
    """
    metadata = msgspec.json.decode(row.metadata)
    metadata.pop("imported", None)
    envelope = (row.stream_id, row.version, row.type, row.schema_version, row.recorded_at_us, metadata)
    if row.type in NODE_NAMING_TYPES and row.data is not None and not nodes:
        return (*envelope, {name: value for name, value in msgspec.json.decode(row.data).items() if name != "node"})
    if row.type != "history_adopted":
        return (*envelope, row.data, row.salt, row.commitment)
    if row.data is None:
        return (*envelope, None)
    data = msgspec.json.decode(row.data)
    for message in data["messages"]:
        del message["position"]
    return (*envelope, data)


def is_imported(row: StoredRow) -> bool:
    return "imported" in msgspec.json.decode(row.metadata)


def imported(row: StoredRow) -> str:
    return str(msgspec.json.decode(row.metadata)["imported"])
