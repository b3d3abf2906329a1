"""What the process that keeps the projections and those that read them send each other, as MessagePack."""

import msgspec
from msgspec import Struct

WAIT = "projections.wait"
RETRY = "projections.retry"
TROUBLE = "projections.trouble"
LISTS = "projections.lists"
STATUS = "projections.status"
CHANGED = "projections.changed"


class WaitRequest(Struct, frozen=True, array_like=True):
    """WAIT: fold up to `position` now, for `timeout_s` at most."""

    position: int
    timeout_s: float


class TroubleReport(Struct, frozen=True, array_like=True):
    """TROUBLE: a query found the file of this generation damaged (`reason`) or could not read it (None)."""

    generation: int
    reason: str | None


class ListsRequest(Struct, frozen=True, array_like=True):
    """LISTS: whether this process has readers of lists of sessions from now on. The answer is WaitAnswer."""

    has_readers: bool


class WaitAnswer(Struct, frozen=True, array_like=True):
    """Answers WAIT and LISTS: the position that is folded."""

    position: int


class UnknownEventType(Struct, frozen=True, array_like=True):
    """As events.errors.UnknownEvent."""

    event_type: str
    schema_version: int


class StatusPush(Struct, frozen=True, array_like=True):
    """STATUS: `failure` stopped the projections for good (`unknown_event`, if it is that); `trouble` is retried."""

    failure: str | None = None
    unknown_event: UnknownEventType | None = None
    trouble: str | None = None


class ChangedPush(Struct, frozen=True, array_like=True):
    """CHANGED: as projections.port.OnChanged."""

    owners: frozenset[str] | None
    position: int


encode = msgspec.msgpack.Encoder().encode
decode_wait = msgspec.msgpack.Decoder(WaitRequest).decode
decode_trouble = msgspec.msgpack.Decoder(TroubleReport).decode
decode_lists = msgspec.msgpack.Decoder(ListsRequest).decode
decode_answer = msgspec.msgpack.Decoder(WaitAnswer).decode
decode_status = msgspec.msgpack.Decoder(StatusPush).decode
decode_changed = msgspec.msgpack.Decoder(ChangedPush).decode
