"""The witness of other logs (https://c2sp.org/tlog-witness): signs a checkpoint only if its log only grew.

What it has seen is in the reserved stream `witness` of this service's own log, and so part of its chain. Requests are
authenticated by the signature of the checkpoint: nobody else can make the witness record anything.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from events.catalogue import WITNESS, CheckpointWitnessed
from events.errors import VersionConflict
from events.integrity.consistency_proof import PROOF_MAX_HASHES, is_consistent
from events.integrity.cosignature import cosign
from events.integrity.merkle_tree import EMPTY
from events.integrity.signed_checkpoint import (
    InvalidCheckpoint,
    TreeHead,
    check_signature,
    parse_tree_head,
    split_notes,
)
from events.log import EventLog
from events.record import Metadata

PAGE = 500  # events read at once: half a kilobyte each
CONFLICTS_MAX = 5  # appends that lose against another process before the witness gives up
NONE_SEEN = TreeHead("", 0, EMPTY)

_REQUEST = re.compile(r"old (0|[1-9][0-9]{0,17})\n((?:[A-Za-z0-9+/]{43}=\n)*)\n(.+)", re.DOTALL)


class Cosigned(Struct, frozen=True):
    """The checkpoint is recorded; `lines` are the signatures of the witness."""

    lines: str


class NotCosigned(Struct, frozen=True):
    """The refusal, with the status that the protocol gives it. `size` is the last one seen, for 409."""

    status: Literal[400, 403, 404, 409, 422]
    reason: str
    size: int = 0


class Submission(Struct, frozen=True):
    """A request of add-checkpoint: `note` states `head`, whose tree contains that of `old_size` leaves."""

    old_size: int
    proof: list[bytes]
    note: str
    head: TreeHead


class WitnessBusy(Exception):
    """Other processes of this service record so many checkpoints that this one was not."""


def parse_submission(body: bytes) -> Submission | NotCosigned:
    """The request of add-checkpoint in `body`; 400 for another form."""
    try:
        found = _REQUEST.fullmatch(body.decode())
        if found is None or len(split_notes(found[3])) != 1:
            return NotCosigned(400, "the body is `old SIZE`, a proof, an empty line and one checkpoint")
        proof = [base64.b64decode(line, validate=True) for line in found[2].split()]
        head = parse_tree_head(found[3])
    except (UnicodeDecodeError, binascii.Error, InvalidCheckpoint) as error:
        return NotCosigned(400, f"the body is not in the form of add-checkpoint: {error}")
    if len(proof) > PROOF_MAX_HASHES:
        return NotCosigned(400, f"a proof has at most {PROOF_MAX_HASHES} hashes")
    return Submission(int(found[1]), proof, found[3], head)


def judge(seen: TreeHead, submission: Submission, verifiers: Sequence[str]) -> NotCosigned | None:
    """Why the checkpoint is not cosigned; None if it is. `seen` is the last one of its log, `verifiers` the keys of it.

    In the order of the protocol: what is known of the log is told only to those who have its key.
    """
    head, old_size = submission.head, submission.old_size
    if not verifiers:
        return NotCosigned(404, "this log is not among those that are witnessed here")
    if not any(_is_signed(submission.note, one) for one in verifiers):
        return NotCosigned(403, "the checkpoint is not signed with a known key of its log")
    if old_size > head.size:
        return NotCosigned(400, "the old size is larger than that of the checkpoint")
    if old_size != seen.size:
        return NotCosigned(409, "the old size is not that of the checkpoint seen last", seen.size)
    if head.size == 0 and head.root != EMPTY:
        return NotCosigned(422, "an empty log has another root")
    if not is_consistent((seen.size, seen.root), (head.size, head.root), submission.proof):
        return NotCosigned(422, "the log has not only grown since the checkpoint seen last, or the proof is wrong")
    return None


class Witness:
    """`logs` are the public keys of each log that is witnessed, by origin; `signer` is a witness's secret key."""

    def __init__(self, log: EventLog, logs: Mapping[str, Sequence[str]], signer: str) -> None:
        self._log = log
        self._logs = logs
        self._signer = signer
        self._seen: dict[str, CheckpointWitnessed] = {}  # by origin, as far as `_version`
        self._version = 0

    async def add(self, submission: Submission, now_s: int, request_id: str) -> Cosigned | NotCosigned:
        """Record a checkpoint, if its log has only grown, and cosign it. Raises WitnessBusy, and what append raises."""
        for _ in range(CONFLICTS_MAX):
            await self._catch_up()
            head = submission.head
            seen = self._seen_of(head.origin)
            refusal = judge(seen, submission, self._logs.get(head.origin, ()))
            if refusal is not None:
                return refusal
            if head.size > seen.size:  # a repeated one is cosigned again, with the present time, and not recorded
                event = CheckpointWitnessed(head.origin, head.size, head.root.hex(), submission.note)
                try:
                    await self._log.append(WITNESS, self._version, [event], Metadata(request_id=request_id))
                except VersionConflict:
                    continue
            return Cosigned(cosign(submission.note, self._signer, now_s))
        raise WitnessBusy("another process records checkpoints at the same time")

    async def newest(self, origin_hash: str, now_s: int) -> str | None:
        """The newest checkpoint of the log whose origin has this SHA-256, cosigned; None if none was seen."""
        await self._catch_up()
        for origin, seen in self._seen.items():
            if hashlib.sha256(origin.encode()).hexdigest() == origin_hash and origin in self._logs:
                return seen.note + cosign(seen.note, self._signer, now_s)
        return None

    def _seen_of(self, origin: str) -> TreeHead:
        seen = self._seen.get(origin)
        return TreeHead(seen.origin, seen.size, bytes.fromhex(seen.root)) if seen is not None else NONE_SEEN

    async def _catch_up(self) -> None:
        """Read what this process, or another one, has recorded since."""
        while page := await self._log.read(WITNESS, after=self._version, limit=PAGE):
            for recorded in page:
                if isinstance(recorded.event, CheckpointWitnessed):
                    self._seen[recorded.event.origin] = recorded.event
            self._version = page[-1].version


def _is_signed(note: str, verifier: str) -> bool:
    try:
        check_signature(note, verifier)
    except InvalidCheckpoint:
        return False
    return True
