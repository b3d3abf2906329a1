"""A witness as a target (https://c2sp.org/tlog-witness): it signs a checkpoint only if its log only grew.

The witness may be another instance of this service, or any other that knows the log's origin and public key.
"""

import base64
import hashlib
import re

import aiohttp

from chatbot.anchors.anchor_target import (
    NOTE_MAX_BYTES,
    Anchor,
    NewAnchor,
    ProofMissing,
    TargetAhead,
    TargetContradicts,
    TargetUnavailable,
    anchor_name,
    tree_head_of,
)
from chatbot.config.anchor_targets import WitnessUrl
from events.integrity.cosignature import check_cosignature, witness_line
from events.integrity.signed_checkpoint import InvalidCheckpoint

TIMEOUT_S = 15.0  # of a request: a witness writes to its own log before it answers
ANSWER_SHOWN_MAX = 200  # characters of a refusal that are shown
CHANGES_MAX = 3  # sizes that a witness may name before it is given up: another node anchors at the same time
NOT_ITS_ANSWER = "the answer is not the witness's"

_SIZE = re.compile(r"(0|[1-9][0-9]{0,17})\n?")


class WitnessTarget:
    """Implements AnchorTarget. `proof_size` is the size of the checkpoint that the witness has seen last."""

    signs = True

    def __init__(self, target: WitnessUrl) -> None:
        self._url = target.url
        self._verifier = target.verifier
        self.proof_size = 0
        self.cosignature = ""
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return self._url

    async def newest(self, origin: str) -> str | None:
        """As AnchorTarget.newest. A witness need not show what it has seen: then there is none."""
        status, text = await self._request("GET", f"/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint")
        if status == 404:
            return None
        found = tree_head_of(text) if status == 200 else None
        if found is None or found.origin != origin:
            raise TargetUnavailable(_refusal(status, text))
        self._check_cosignature(text)
        self.proof_size = found.size
        return text

    async def write(self, anchor: NewAnchor) -> bool:
        """As AnchorTarget.write."""
        size, known = anchor.checkpoint.size, self.proof_size
        for _ in range(CHANGES_MAX):
            if known > size:
                raise TargetAhead(known)
            proof = anchor.tree.proof(known)
            if proof is None:
                self.proof_size = known
                raise ProofMissing(known)
            lines = "".join(f"{base64.b64encode(one).decode()}\n" for one in proof)
            status, text = await self._request("POST", "/add-checkpoint", f"old {known}\n{lines}\n{anchor.note}")
            if status == 200:
                self.cosignature = self._read_cosignature(anchor.note, text)
                self.proof_size = size
                return known < size
            if status == 422:
                raise TargetContradicts(f"the witness has seen another tree of this log, of {known} events")
            stated = _SIZE.fullmatch(text) if status == 409 else None
            if stated is None:
                raise TargetUnavailable(_refusal(status, text))
            known = int(stated[1])
        raise TargetUnavailable("the witness names other sizes all the time")

    async def read_all(self, origin: str) -> list[Anchor]:
        """As AnchorTarget.read_all: a witness shows only the newest, which every earlier one is part of."""
        text = await self.newest(origin)
        head = None if text is None else tree_head_of(text)
        return [] if text is None or head is None else [Anchor(self.name, anchor_name(origin, head.size), text)]

    async def origins(self) -> list[str]:
        """As AnchorTarget.origins: a witness does not say."""
        return []

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        """Status and text of the answer. Raises TargetUnavailable."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), trust_env=True)
        data = None if body is None else body.encode()
        try:
            async with self._session.request(method, self._url + path, data=data, allow_redirects=False) as response:
                content = await response.content.read(NOTE_MAX_BYTES)
                while len(content) < NOTE_MAX_BYTES and (more := await response.content.read(NOTE_MAX_BYTES)):
                    content += more
                return response.status, content[:NOTE_MAX_BYTES].decode(errors="replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise TargetUnavailable(f"{type(error).__name__}: {error}".rstrip(": ")) from error

    def _read_cosignature(self, note: str, answer: str) -> str:
        """The line of `answer` with which the witness has signed `note`; empty if its key is not known. Raises
        TargetUnavailable.
        """
        if self._verifier is None:
            return ""
        try:
            line = witness_line(answer, self._verifier)
            check_cosignature(note + line, self._verifier)
        except InvalidCheckpoint as error:
            raise TargetUnavailable(f"{NOT_ITS_ANSWER}: {error}") from error
        return line

    def _check_cosignature(self, text: str) -> None:
        """Raises TargetUnavailable unless `text` is signed by the witness, if its key is known."""
        if self._verifier is not None:
            try:
                check_cosignature(text, self._verifier)
            except InvalidCheckpoint as error:
                raise TargetUnavailable(f"{NOT_ITS_ANSWER}: {error}") from error


def _refusal(status: int, text: str) -> str:
    reasons = {403: "it does not know the key of this log", 404: "it does not know this log, or is no witness"}
    return f"it answered {status}: {reasons.get(status) or ' '.join(text.split())[:ANSWER_SHOWN_MAX]}".rstrip(": ")
