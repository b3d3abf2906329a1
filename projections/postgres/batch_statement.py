"""The one statement that writes a batch of changes to the tables in PostgreSQL, made of the parts that the batch needs.

Nothing is written if the fence finds another checkpoint or other tables than the writer knows: every part joins it. The
parts see the tables as they were before the statement, so no two of them may change one row.
"""

from collections.abc import Sequence
from functools import lru_cache

from msgspec import Struct

from events.catalogue import UsageTotal
from projections.folds.batch import Changes, SessionChanges
from projections.folds.message import NewMessage
from projections.port import Checkpoint
from projections.sql.row_changes import ADDED, Row, insert_rows, session_row, update_rows, usage_row


class Part(Struct, frozen=True):
    """A part of the statement. {0}, {1} and so on in `text` are its parameters, {p} the prefix of the tables' names."""

    name: str
    text: str


Notification = tuple[str, str]  # a channel, and what to say there

_FENCE = Part("fence", """
UPDATE {p}meta SET position = {0}, digest = {1}, log_identity = {2}, is_stale = is_stale OR {3}
WHERE position = {4} AND digest = {5} AND label_key = {6} RETURNING position
""")  # fmt: skip

_SESSIONS = Part("sessions", """
INSERT INTO {p}sessions AS s
    (no, session_id, owner, status, kind, pinned, accessed_at_us, expires_at_us, is_open, changed_at, recorded_bytes,
     state, is_erasing)
SELECT n.* FROM fence CROSS JOIN unnest({0}::bigint[], {1}::text[], {2}::text[], {3}::text[], {4}::text[],
    {5}::integer[], {6}::bigint[], {7}::bigint[], {8}::integer[], {9}::bigint[], {10}::bigint[], {11}::text[],
    {12}::integer[]) AS n
ON CONFLICT (no) DO UPDATE SET owner = excluded.owner, status = excluded.status, kind = excluded.kind,
    pinned = excluded.pinned, accessed_at_us = excluded.accessed_at_us, expires_at_us = excluded.expires_at_us,
    is_open = excluded.is_open, changed_at = excluded.changed_at, recorded_bytes = excluded.recorded_bytes,
    is_erasing = excluded.is_erasing, state = excluded.state
""")  # fmt: skip

# `steps` below `base_id`, a message of an earlier batch; below none, the depth itself.
_MESSAGES = Part("messages", """
INSERT INTO {p}messages (no, session_no, message_id, parent_id, depth, role, status, position, version, created_at_us,
                         model, prompt_tokens, completion_tokens, day, reasoning_tokens, cached_tokens, calls)
SELECT n.no, n.session_no, n.message_id, n.parent_id,
       n.steps + coalesce((SELECT b.depth FROM {p}messages AS b
                            WHERE b.session_no = n.session_no AND b.message_id = n.base_id), 0),
       n.role, n.status, n.position, n.version, n.created_at_us, n.model, n.prompt_tokens, n.completion_tokens, n.day,
       n.reasoning_tokens, n.cached_tokens, n.calls
FROM fence CROSS JOIN unnest({0}::bigint[], {1}::bigint[], {2}::text[], {3}::text[], {4}::text[], {5}::integer[],
    {6}::text[], {7}::text[], {8}::bigint[], {9}::bigint[], {10}::bigint[], {11}::text[], {12}::bigint[],
    {13}::bigint[], {14}::text[], {15}::bigint[], {16}::bigint[], {17}::text[])
    AS n (no, session_no, message_id, parent_id, base_id, steps, role, status, position, version, created_at_us, model,
          prompt_tokens, completion_tokens, day, reasoning_tokens, cached_tokens, calls)
ON CONFLICT DO NOTHING
""")  # fmt: skip

_UPDATES = Part("updates", """
UPDATE {p}messages AS m SET status = n.status, position = n.position, version = n.version,
    created_at_us = coalesce(n.created_at_us, m.created_at_us), model = coalesce(n.model, m.model),
    prompt_tokens = n.prompt_tokens, completion_tokens = n.completion_tokens, day = n.day,
    reasoning_tokens = n.reasoning_tokens, cached_tokens = n.cached_tokens, calls = n.calls
FROM fence CROSS JOIN unnest({0}::text[], {1}::bigint[], {2}::bigint[], {3}::bigint[], {4}::text[], {5}::bigint[],
    {6}::bigint[], {7}::text[], {8}::bigint[], {9}::bigint[], {10}::text[], {11}::bigint[], {12}::text[])
    AS n (status, position, version, created_at_us, model, prompt_tokens, completion_tokens, day, reasoning_tokens,
          cached_tokens, calls, session_no, message_id)
WHERE m.session_no = n.session_no AND m.message_id = n.message_id
""")  # fmt: skip

_COUNTS = Part("counted", """
INSERT INTO {p}counts AS c (status, n)
SELECT n.status, n.n FROM fence CROSS JOIN unnest({0}::text[], {1}::bigint[]) AS n (status, n)
ON CONFLICT (status) DO UPDATE SET n = c.n + excluded.n
""")  # fmt: skip

_LABELS = Part("labelled", """
INSERT INTO {p}labels (label, no) SELECT n.* FROM fence CROSS JOIN unnest({0}::bigint[], {1}::bigint[]) AS n
ON CONFLICT DO NOTHING
""")  # fmt: skip

_KEYS = Part("keyed", """
INSERT INTO {p}keys (session_no, label, position)
SELECT n.* FROM fence CROSS JOIN unnest({0}::bigint[], {1}::bigint[], {2}::bigint[]) AS n ON CONFLICT DO NOTHING
""")  # fmt: skip

_USAGE_COLUMNS = "day, model, replies, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens"
_USAGE_ARRAYS = "{1}::text[], {2}::text[], {3}::bigint[], {4}::bigint[], {5}::bigint[], {6}::bigint[], {7}::bigint[]"
_USAGE = Part("used", f"""
INSERT INTO {{p}}usage AS u (owner, {_USAGE_COLUMNS})
SELECT n.* FROM fence CROSS JOIN unnest({{0}}::text[], {_USAGE_ARRAYS}) AS n
ON CONFLICT (day, owner, model) DO UPDATE SET {ADDED}
""")  # noqa: S608  constants  # fmt: skip

_ERASED_USAGE = Part("erased", f"""
INSERT INTO {{p}}erased_usage AS u (session_no, {_USAGE_COLUMNS})
SELECT n.* FROM fence CROSS JOIN unnest({{0}}::bigint[], {_USAGE_ARRAYS}) AS n
ON CONFLICT (session_no, day, model) DO UPDATE SET {ADDED}
""")  # noqa: S608  constants  # fmt: skip

_NOTIFIED = "SELECT string_agg(pg_notify(n.channel, n.said)::text, '') FROM unnest({0}::text[], {1}::text[]) AS n (channel, said)"  # noqa: E501


class BatchStatement:
    """What writes `changes` and moves from one checkpoint to the next. `query` returns a row unless the fence has found
    another checkpoint than `present`, or other tables than those with this `label_key`.
    """

    def __init__(
        self,
        prefix: str,
        changes: Changes,
        checkpoints: tuple[Checkpoint, Checkpoint],
        label_key: bytes,
        notifications: Sequence[Notification] = (),
    ) -> None:
        self._parts: list[tuple[Part, int]] = []
        self.values: list[object] = []
        present, following = checkpoints
        erases = any(one.erased and one.before is not None for one in changes.sessions)
        moved = (following.position, following.digest, following.identity, erases)
        self._add(_FENCE, [*moved, present.position, present.digest, label_key])
        sessions = changes.sessions
        self._add_rows(
            _SESSIONS, [(*session_row(one.session), int(one.session.erasure is not None)) for one in sessions]
        )
        self._add_rows(_COUNTS, list(changes.counts.items()))
        self._add_rows(_LABELS, [(label, one.session.no) for one in sessions for label in one.labels or ()])
        self._add_rows(_MESSAGES, [row for one in sessions if one.inserts for row in _message_rows(one)])
        self._add_rows(_UPDATES, [row for one in sessions if one.updates for row in update_rows(one)])
        self._add_rows(_KEYS, [(one.session.no, *key) for one in sessions for key in one.keys])
        self._add_rows(_USAGE, [(owner, *usage_row(used)) for owner, used in changes.usage])
        self._add_rows(_ERASED_USAGE, [_erased_row(one, used) for one in sessions for used in one.erased_usage])
        names = tuple(part.name for part, _ in self._parts)
        if notifications:
            self.values.extend(map(list, zip(*notifications, strict=True)))
        self.query = _compose(prefix, names, has_notifications=bool(notifications))

    def _add(self, part: Part, values: Sequence[object]) -> None:
        self._parts.append((part, len(values)))
        self.values.extend(values)

    def _add_rows(self, part: Part, rows: Sequence[Row]) -> None:
        if rows:
            self._add(part, list(map(list, zip(*rows, strict=True))))


_PARTS = {
    part.name: part for part in (_FENCE, _SESSIONS, _COUNTS, _LABELS, _MESSAGES, _UPDATES, _KEYS, _USAGE, _ERASED_USAGE)
}
_VALUES = {
    "fence": 7, "sessions": 13, "counted": 2, "labelled": 2, "messages": 18, "updates": 13, "keyed": 3, "used": 8,
    "erased": 8,
}  # fmt: skip


@lru_cache(maxsize=512)  # all combinations of parts that occur
def _compose(prefix: str, names: tuple[str, ...], *, has_notifications: bool) -> str:
    count, parts = 0, []
    for name in names:
        numbers = [f"${count + index}" for index in range(1, _VALUES[name] + 1)]
        count += len(numbers)
        parts.append(f"{name} AS ({_PARTS[name].text.format(*numbers, p=prefix)})")
    said = f", ({_NOTIFIED.format(f'${count + 1}', f'${count + 2}')})" if has_notifications else ""
    return f"WITH {', '.join(parts)} SELECT position{said} FROM fence"  # noqa: S608  constants


def _message_rows(changes: SessionChanges) -> list[Row]:
    """For _MESSAGES: rows as `insert_rows` makes them, with `base_id` and `steps` in place of the depth."""
    below: dict[str, tuple[str | None, int]] = {}
    rows = []
    for message, row in zip(changes.inserts.values(), insert_rows(changes), strict=True):
        below[message.message_id] = base = _base(message, below)
        rows.append((*row[:4], *base, *row[7:]))
    return rows


def _base(message: NewMessage, below: dict[str, tuple[str | None, int]]) -> tuple[str | None, int]:
    """The nearest ancestor that is not of this batch, and the steps from it; (None, depth) if the depth is known."""
    if message.depth is not None or message.parent_id is None:
        return None, message.depth or 1
    base_id, steps = below.get(message.parent_id, (message.parent_id, 0))
    return base_id, steps + 1


def _erased_row(changes: SessionChanges, used: UsageTotal) -> Row:
    return (changes.session.no, *usage_row(used))
