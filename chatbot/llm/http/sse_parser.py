"""Server-sent events out of bytes, however the network cut them (WHATWG HTML, section 9.2.6).

Only `data` is kept: model servers say everything there. Bytes stay bytes until an event is whole, so a character cut
in two by the network cannot be decoded wrongly.
"""

_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """A line or an event of the model server exceeds the bound."""


class SseParser:
    """Feed it what arrives; it gives the data of each event that is complete. Raises EventTooLong."""

    def __init__(self, line_max_bytes: int) -> None:
        self._line_max_bytes = line_max_bytes
        self._unfinished = bytearray()  # the beginning of a line whose end has not come
        self._data: list[bytes] = []  # the data lines of an event whose blank line has not come
        self._data_bytes = 0
        self._after_cr = False  # the last byte was \r: a \n that comes next belongs to it
        self._at_start = True

    def feed(self, data: bytes) -> list[bytes]:
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if not data:
            return []
        if self._is_plain(data):
            self._at_start = False
            return data[6:-2].split(b"\n\ndata: ")
        lines = data.splitlines()
        unfinished = b"" if data.endswith((b"\n", b"\r")) else lines.pop()
        self._after_cr = data.endswith(b"\r")
        if lines and self._unfinished:
            lines[0] = bytes(self._unfinished) + lines[0]
            self._unfinished.clear()
        events = self._parse_lines(lines) if lines else []
        self._unfinished += unfinished
        if len(self._unfinished) > self._line_max_bytes:
            raise EventTooLong(f"A line of the model server exceeds {self._line_max_bytes} bytes")
        return events

    def end(self) -> list[bytes]:
        """What the blank line of a last event would have given: some servers leave it out."""
        return self.feed(b"\n\n")

    def _is_plain(self, data: bytes) -> bool:
        """Whether it is what most reads bring while a model writes: whole events, each with one line of data."""
        ends = data.count(b"\n\n")
        is_whole = data.startswith(b"data: ") and data.endswith(b"\n\n") and b"\r" not in data
        are_lines = data.count(b"\n") == 2 * ends and data.count(b"\n\ndata: ") == ends - 1
        is_first = not self._unfinished and not self._data
        return is_whole and are_lines and is_first and len(data) <= self._line_max_bytes

    def _parse_lines(self, lines: list[bytes]) -> list[bytes]:
        events = []
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        for line in lines:
            if line.startswith(b"data:"):
                self._add_data(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if self._data:
                    events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                    self._data = []
                    self._data_bytes = 0
            elif line == b"data":
                self._add_data(b"")
            elif len(line) > self._line_max_bytes:
                raise EventTooLong(f"A line of the model server exceeds {self._line_max_bytes} bytes")
        return events

    def _add_data(self, value: bytes) -> None:
        self._data_bytes += len(value) + 6
        if self._data_bytes > self._line_max_bytes:
            raise EventTooLong(f"An event of the model server exceeds {self._line_max_bytes} bytes")
        self._data.append(value)
