"""A report as lines of JSON, one for each entry. Files of messages are not in it, only their names and hashes."""

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from chatbot.audit.report.entries import Entry, ReportEnd, ReportHead, SessionSummary

_encode = msgspec.json.Encoder().encode


class NdjsonWriter:
    """Implements chatbot.audit.report.report_pieces.ReportWriter."""

    shows_images = False

    def __init__(self) -> None:
        self._lines = 0
        self._sha256 = hashlib.sha256()

    def head(self, head: ReportHead, sessions: Sequence[SessionSummary]) -> bytes:
        return self._line(head)

    def entry(self, entry: Entry, files: Mapping[str, bytes]) -> bytes:
        return self._line(entry)

    def end(self) -> bytes:
        return _encode(ReportEnd(lines=self._lines, sha256=self._sha256.hexdigest())) + b"\n"

    def _line(self, entry: ReportHead | Entry) -> bytes:
        line = _encode(entry) + b"\n"
        self._lines += 1
        self._sha256.update(line)
        return line
