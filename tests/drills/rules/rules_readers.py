"""Rules about readers: each has, over all its connections, exactly what the log has of what it followed."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from msgspec import Struct

from tests.drills.drill_record import ReceivedFrame, Violation
from tests.drills.rules.log_index import LogIndex
from tests.support.http.frame_types import FRAME_TYPES

OF_A_REPLY = ("start", "chunk", "complete", "error")


class ProtocolViolation(Exception):
    """What no correct service would have said."""


class ReceivedReply(Struct):
    """What a reader has of a reply. `missed`: so much came before it, in a branch that its snapshot did not show."""

    text: str = ""
    ended: bool = False
    missed: int = 0

    @property
    def length(self) -> int:
        return self.missed + len(self.text)


class ReaderState:
    """One reader of one session, by the rules of the README's table of frames."""

    def __init__(self) -> None:
        self.held: dict[str, ReceivedReply] = {}
        self.at = (0, 0)
        self.origin = 0  # it has been told everything after this version
        self.missed = 0  # characters of the reply that was open there, where that is not shown
        self.told: list[tuple[str, int]] = []
        self.over = False

    def take(self, cursor: str, frame: dict[str, Any]) -> None:
        """Raises Wrong."""
        kind, before = frame["type"], self.at
        version, _, offset = cursor.partition(":")
        self.at = (int(version), int(offset or 0))
        if kind in ("snapshot", "resync"):
            self._begin(frame)
            return
        if self.over:
            raise ProtocolViolation(f"a frame {kind} after the session was over")
        if self.at < before or (self.at == before and kind != "draining"):
            raise ProtocolViolation(f"the frame {kind} at {cursor} comes after {before[0]}:{before[1]}")
        if kind in OF_A_REPLY:
            self._reply(kind, frame)
        elif kind == "queued" and frame["message_id"] in self.held:  # interrupted, and to be tried again
            self.held[frame["message_id"]].ended = False
        if kind in FRAME_TYPES.values():
            self.told.append((kind, self.at[0]))
        self.over = kind in ("expired", "deleted")

    def _begin(self, frame: dict[str, Any]) -> None:
        self.origin, self.missed, self.told = *self.at, []
        self.held = {
            one["message_id"]: ReceivedReply(one["content"], ended=one["status"] not in ("queued", "streaming"))
            for one in frame.get("messages", [])
            if one["role"] == "assistant"
        }

    def _reply(self, kind: str, frame: dict[str, Any]) -> None:
        reply_id = frame["message_id"]
        if kind == "start":
            self.held[reply_id] = ReceivedReply()
            return
        held = self.held.setdefault(
            reply_id, ReceivedReply(missed=self.missed)
        )  # one that waited may end without a start
        if held.ended:
            raise ProtocolViolation(f"reply {reply_id} goes on with {kind} after its end")
        if kind == "chunk":
            held.text += frame["content"]
            if held.length != self.at[1]:
                raise ProtocolViolation(
                    f"reply {reply_id}: the reader has {held.length} characters and is told {self.at[1]}"
                )
        elif kind == "complete":
            held.ended = True
            if held.text != frame["full_response"][held.missed :]:
                raise ProtocolViolation(
                    f"reply {reply_id}: the reader has {held.text!r}, it is {frame['full_response']!r}"
                )
        else:
            held.ended = True
            if frame["length"] == 0:  # one that waited, perhaps: nothing is known of it, and nothing is missing
                held.missed = 0
            if held.length < frame["length"]:
                raise ProtocolViolation(
                    f"reply {reply_id}: {frame['length']} characters are kept, the reader has {held.length}"
                )
            held.text = held.text[: max(0, frame["length"] - held.missed)]


def check_readers(index: LogIndex, heard: list[ReceivedFrame]) -> Iterator[Violation]:
    """The readers that stayed to the end have all; those that went elsewhere before, all up to there."""
    in_order = sorted(heard, key=lambda one: (one.reader, one.follow))  # stable: frames stay as they came
    for (reader, _), frames in groupby(in_order, key=lambda one: (one.reader, one.follow)):
        reader_state, last = ReaderState(), None
        for last in frames:
            try:
                reader_state.take(last.cursor, last.frame)
            except ProtocolViolation as violation:
                what = f"{reader}, connection {last.connection} to {last.target}: {violation}"
                yield Violation("readers", what, last.session_id, reader_state.at[0], last.heard_s)
                break
        else:
            if last is not None:
                yield from _check_reader(index, reader_state, last)


def _check_reader(index: LogIndex, reader_state: ReaderState, last: ReceivedFrame) -> Iterator[Violation]:
    """It was told each recorded event once and in order, and holds the very text of each reply that has ended."""
    version = reader_state.at[0]
    events = index.sessions.get(last.session_id, [])
    expected = [(FRAME_TYPES[one.type], one.version) for one in events if one.type in FRAME_TYPES]
    expected = [one for one in expected if reader_state.origin < one[1] <= version]
    told = [one for one in reader_state.told if one[0] != "deleted"]
    wanted = expected[: len(told)] if reader_state.over else [one for one in expected if one[0] != "deleted"]
    if told != wanted:
        odd = next((pair for pair in zip(told, wanted, strict=False) if pair[0] != pair[1]), (told[-1:], wanted[-1:]))
        what = f"{last.reader} was told {len(told)} events of {len(wanted)}; it heard {odd[0]}, the log has {odd[1]}"
        yield Violation("readers", what, last.session_id, version, last.heard_s)
    for reply_id, held in reader_state.held.items():
        if reply_id in index.adopted[last.session_id]:
            kept = index.adopted_text(last.session_id, reply_id)
            if held.text != kept and not index.is_deleted(last.session_id):
                what = f"{last.reader} has {held.text!r} of the inherited reply {reply_id}; the log has {kept!r}"
                yield Violation("readers", what, last.session_id, version, last.heard_s)
            continue
        reply = index.replies.get(reply_id)
        if reply is None:
            if not index.is_deleted(last.session_id):
                what = f"{last.reader} heard of reply {reply_id}, which is not in the log"
                yield Violation("readers", what, last.session_id, version, last.heard_s)
        elif reply.end is not None and reply.end.version <= version and held.text != (reply.text or "")[held.missed :]:
            what = f"{last.reader} has {held.text!r} of reply {reply_id}; the log has {reply.text!r}"
            yield Violation("readers", what, last.session_id, reply.end.version, last.heard_s)
