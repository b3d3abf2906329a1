"""What a drill writes down while it runs: what clients asked and were told, what readers heard, what the log holds.

Times are seconds of the wall clock (time.time); all that takes part runs on one machine, so they compare.
"""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

NEVER_S = 1e12  # a time that never comes; JSON has no infinity


class Operation(Struct, omit_defaults=True, kw_only=True):
    """One request of one client. A retry with the same `key` is an operation of its own."""

    client: str
    kind: str  # create, fork, chat, edit, regenerate, cancel, patch, delete, read, list, follow, key_add ...
    target: str  # whom it asked: a node's name, or "proxy"
    invoked_s: float
    session_id: str = ""
    key: str | None = None
    if_version: int | None = None
    interrupts: bool = False  # a running reply is cancelled first
    sent: str = ""  # the message or title: used once, so that its effect can be known again
    told_s: float | None = None  # when its effect was acknowledged: of a stream, when `start` came
    completed_s: float | None = None  # None: it never heard the end of it
    status: int = 0  # of HTTP; 0: no answer
    problem: str = ""  # the `type` of an answer that is one
    version: int | None = None  # told with the end, or with what was read
    message_id: str | None = None  # the user's message
    reply_id: str | None = None
    reply_status: str = ""  # how the reply ended, as far as it was told: complete, cancelled, ended ...
    reply_text: str | None = None
    streamed: str | None = None  # what the chunks of a stream that ended add up to
    messages: list[dict[str, Any]] | None = None  # what was read, or listed (then: session_id and version)
    secret: str = ""  # the API key that it was asked with, `name#number` of its secret; "": the one that all share
    grants: str = ""  # of a change of keys: the secret that it makes
    ends: list[str] = []  # and those that are valid no more
    heard_s: float | None = None  # when the last bytes of a stream came

    @property
    def is_told(self) -> bool:
        """Its effect was acknowledged."""
        return self.told_s is not None

    @property
    def is_refused(self) -> bool:
        """It was told that it has no effect. A 404 of a delete may be the answer to one sent twice by the proxy."""
        return 400 <= self.status < 500 and not self.is_told and not (self.kind == "delete" and self.status == 404)


class ReceivedFrame(Struct, omit_defaults=True):
    """One frame as a reader took it. A snapshot that it began with is a frame of type `snapshot`."""

    reader: str
    follow: int  # counts the sessions that this reader has followed
    connection: int
    target: str
    session_id: str
    heard_s: float
    cursor: str
    frame: dict[str, Any]


class LoggedEvent(Struct, omit_defaults=True):
    """One event of the final log. `data` is None once erased."""

    position: int
    session_id: str
    version: int
    type: str
    recorded_s: float
    data: dict[str, Any] | None
    digest: str


class NodeView(Struct):
    """What one node says when all has settled: a digest of the log as it reads it, and each session's history.

    None in place of a history is a 404. `keys` is the status that each secret gets.
    """

    node: str
    log: str
    histories: dict[str, Any]
    keys: dict[str, int] = {}


class FaultSpan(Struct):
    """When a fault was there. `to_s`: when it was undone; what had ended begins to start then."""

    kind: str
    parts: list[str]
    from_s: float
    to_s: float


class DrillRecord(Struct):
    """All that the checker knows. `verify`: what `run.py verify` complained of; `complaints`: what else went wrong."""

    operations: list[Operation]
    heard: list[ReceivedFrame]
    log: list[LoggedEvent]
    seen: list[NodeView]
    verify: str = ""
    complaints: list[str] = []
    faults: list[FaultSpan] = []

    def save(self, folder: Path) -> None:
        """One file of JSON lines for each kind."""
        folder.mkdir(parents=True, exist_ok=True)
        encode = msgspec.json.Encoder().encode_lines
        (folder / "operations.jsonl").write_bytes(encode(self.operations))
        (folder / "heard.jsonl").write_bytes(encode(self.heard))
        (folder / "log.jsonl").write_bytes(encode(self.log))
        (folder / "seen.jsonl").write_bytes(encode(self.seen))
        (folder / "faults.jsonl").write_bytes(encode(self.faults))
        (folder / "complaints.json").write_bytes(msgspec.json.encode([self.verify, self.complaints]))

    @classmethod
    def load(cls, folder: Path) -> "DrillRecord":
        """As saved: to check a kept record again."""
        verify, complaints = msgspec.json.decode((folder / "complaints.json").read_bytes())
        return cls(
            msgspec.json.Decoder(Operation).decode_lines((folder / "operations.jsonl").read_bytes()),
            msgspec.json.Decoder(ReceivedFrame).decode_lines((folder / "heard.jsonl").read_bytes()),
            msgspec.json.Decoder(LoggedEvent).decode_lines((folder / "log.jsonl").read_bytes()),
            msgspec.json.Decoder(NodeView).decode_lines((folder / "seen.jsonl").read_bytes()),
            verify,
            complaints,
            msgspec.json.Decoder(FaultSpan).decode_lines((folder / "faults.jsonl").read_bytes()),
        )


class Violation(Struct, frozen=True):
    """A promise that was broken. `version` and `at_s` say where to look."""

    rule: str
    what: str
    session_id: str = ""
    version: int | None = None
    at_s: float | None = None
