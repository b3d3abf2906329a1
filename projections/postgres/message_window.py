"""A page of a branch, taken from the newest messages of its session. Pure.

A child's `no` is always higher than its parent's, so the newest messages that include a parent include its children.
"""

from collections.abc import Sequence
from typing import Any

from projections.folds.message import MessageRow

SIBLINGS_MAX = 1_000  # ids of messages under one parent that a message lists
OTHERS_MAX = 4  # newest messages read beyond the page: the parent of its oldest, and a few of other branches

Columns = Sequence[Any]  # those of MessageRow but for the siblings, in its order
_MESSAGE_ID, _PARENT_ID = map(MessageRow.__struct_fields__.index, ("message_id", "parent_id"))


def page_in_window(
    window: Sequence[Columns], leaf: str | None, *, limit: int, is_whole: bool
) -> list[MessageRow] | None:
    """The newest `limit` messages of the branch that ends in `leaf`, oldest first; None if others are needed to tell.

    `window` has the session's newest messages, newest first, or all of them, if `is_whole`. No leaf, or one that the
    session does not have: no messages.
    """
    known = {row[_MESSAGE_ID]: row for row in window}
    branch: list[Columns] = []
    while leaf is not None and len(branch) < limit:
        row = known.get(leaf)
        if row is None:
            if not is_whole:
                return None
            break
        branch.append(row)
        leaf = row[_PARENT_ID]
    if not is_whole and branch and branch[-1][_PARENT_ID] not in known:  # its siblings may be missing
        return None
    children: dict[str | None, list[str]] = {}
    for row in reversed(window):
        children.setdefault(row[_PARENT_ID], []).append(row[_MESSAGE_ID])
    return [MessageRow(*(*row, tuple(children[row[_PARENT_ID]][:SIBLINGS_MAX]))) for row in reversed(branch)]
