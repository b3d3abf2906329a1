"""How far a JSON object or array has come that arrives in pieces. Pure."""

import re

_STRUCTURE = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)
_STEPS = {"{": 1, "[": 1, "}": -1, "]": -1}


class JsonProgress:
    """Looks at each piece once, however many there are."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False  # the next character
        self._last = ""  # character that is no white space

    def add(self, piece: str) -> None:
        if not piece:
            return
        self._last = piece.rstrip()[-1:] or self._last
        start, self._is_escaped = int(self._is_escaped), False
        for found in _STRUCTURE.finditer(piece, start):
            mark = found[0]
            if mark == "\\":  # the last character
                self._is_escaped = True
            elif mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += _STEPS.get(mark, 0)

    @property
    def has_closed(self) -> bool:
        """Whether the last bracket closes the first one. If what came until then is not valid, it will not be."""
        return self._last in ("}", "]") and self._depth <= 0 and not self._in_string
