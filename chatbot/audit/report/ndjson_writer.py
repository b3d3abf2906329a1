"""A report as lines of JSON, one for each entry, and one for each image that is wanted. Of other files it has names and
hashes.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from chatbot.audit.report.entries import Entry, ImageEntry, MessageEntry, ReportEnd, ReportHead, SessionSummary
from events.schema.parts import media_of

_encode = msgspec.json.Encoder().encode


class NdjsonWriter:
    """Implements chatbot.audit.report.report_pieces.ReportWriter."""

    def __init__(self) -> None:
        self._lines = 0
        self._sha256 = hashlib.sha256()

    def head(self, head: ReportHead, sessions: Sequence[SessionSummary]) -> bytes:
        return self._line(head)

    def entry(self, entry: Entry, files: Mapping[str, bytes]) -> bytes:
        lines = [self._line(entry)]
        if isinstance(entry, MessageEntry):
            media = {one.sha256: one for one in media_of(entry.parts) if one.sha256 in files}
            lines += [
                self._line(
                    ImageEntry(
                        session_id=entry.session_id,
                        message_id=entry.message_id,
                        sha256=one.sha256,
                        media_type=one.media_type,
                        bytes=one.bytes,
                        content=base64.b64encode(files[one.sha256]).decode(),
                    )
                )
                for one in media.values()
            ]
        return b"".join(lines)

    def end(self) -> bytes:
        return _encode(ReportEnd(lines=self._lines, sha256=self._sha256.hexdigest())) + b"\n"

    def _line(self, entry: ReportHead | Entry | ImageEntry) -> bytes:
        line = _encode(entry) + b"\n"
        self._lines += 1
        self._sha256.update(line)
        return line
