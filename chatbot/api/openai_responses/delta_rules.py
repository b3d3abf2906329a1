"""How the text of a response is cut into deltas: by its content, so that each delta has the same number whenever the
response is sent, by whichever process, and after a restart. Pure.

A response records the number of its rule. A rule never changes: a better one gets another number.
"""

import re
from collections.abc import Callable

from msgspec import Struct

MAX_CHARS = 12  # of a delta of rule 1, in code points: Korean and Chinese have long runs without spaces

# After each run of white space (these four, whatever Unicode says) and after 12 code points. Lazily: the first of them.
_RULE_1 = re.compile(r"(?s:.{1,11}?)(?<=[ \t\r\n])(?![ \t\r\n])|(?s:.{12})")


class Cut(Struct, frozen=True):
    """`deltas` that will not change, whatever follows, and the `rest`, which may."""

    deltas: list[str]
    rest: str


def cut_by_rule_1(text: str) -> Cut:
    """`text` begins where a delta begins. What is at its end may go on, and is the rest."""
    deltas: list[str] = []
    start = 0
    while (found := _RULE_1.match(text, start)) is not None:
        is_open = found.end() == len(text) and found.end() - start < MAX_CHARS  # more white space may follow
        if is_open:
            break
        deltas.append(found[0])
        start = found.end()
    return Cut(deltas, text[start:])


DELTA_RULES: dict[int, Callable[[str], Cut]] = {1: cut_by_rule_1}
