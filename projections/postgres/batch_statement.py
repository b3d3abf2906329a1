"""The one statement that writes a batch of changes to the tables in PostgreSQL, made of the parts that the batch needs.

Nothing is written if the fence finds another checkpoint or other tables than the writer knows: every part joins it. The
parts see the tables as they were before the statement, so no two of them may change one row.

The rows of a part are one parameter, as JSON. With an array for each column, asyncpg would look closely at every
element, and the server would set up a scan for each.
"""

from collections.abc import Sequence
from functools import lru_cache

import msgspec
from msgspec import Struct

from events.catalogue import UsageTotal
from projections.folds.batch import Changes, SessionChanges
from projections.folds.message import NewMessage
from projections.port import Checkpoint
from projections.sql.row_changes import ADDED, Row, insert_rows, session_row, update_rows, usage_row


class Part(Struct, frozen=True):
    """A part of the statement, which has rows. In `text` {rows} is their table, with these `columns` (a name and a type
    each), and {p} the prefix of the tables' names.
    """

    name: str
    text: str
    columns: str


Notification = tuple[str, str]  # a channel, and what to say there

_FENCE = """
UPDATE {p}meta SET position = $1, digest = $2, log_identity = $3, is_stale = is_stale OR $4
WHERE position = $5 AND digest = $6 AND label_key = $7 RETURNING position
"""

_SESSIONS = Part("sessions", """
INSERT INTO {p}sessions AS s
    (no, session_id, owner, status, kind, pinned, accessed_at_us, expires_at_us, is_open, changed_at, recorded_bytes,
     state, is_erasing)
SELECT n.* FROM fence CROSS JOIN {rows} AS n
ON CONFLICT (no) DO UPDATE SET owner = excluded.owner, status = excluded.status, kind = excluded.kind,
    pinned = excluded.pinned, accessed_at_us = excluded.accessed_at_us, expires_at_us = excluded.expires_at_us,
    is_open = excluded.is_open, changed_at = excluded.changed_at, recorded_bytes = excluded.recorded_bytes,
    is_erasing = excluded.is_erasing, state = excluded.state
""", "no bigint, session_id text, owner text, status text, kind text, pinned integer, accessed_at_us bigint,"
    " expires_at_us bigint, is_open integer, changed_at bigint, recorded_bytes bigint, state text,"
    " is_erasing integer")  # fmt: skip

# `steps` below `base_id`, a message of an earlier batch; below none, the depth itself.
_MESSAGES = Part("messages", """
INSERT INTO {p}messages (no, session_no, message_id, parent_id, depth, role, status, position, version, created_at_us,
                         model, prompt_tokens, completion_tokens, day, reasoning_tokens, cached_tokens, calls)
SELECT n.no, n.session_no, n.message_id, n.parent_id,
       n.steps + coalesce((SELECT b.depth FROM {p}messages AS b
                            WHERE b.session_no = n.session_no AND b.message_id = n.base_id), 0),
       n.role, n.status, n.position, n.version, n.created_at_us, n.model, n.prompt_tokens, n.completion_tokens, n.day,
       n.reasoning_tokens, n.cached_tokens, n.calls
FROM fence CROSS JOIN {rows} AS n
ON CONFLICT DO NOTHING
""", "no bigint, session_no bigint, message_id text, parent_id text, base_id text, steps integer, role text,"
    " status text, position bigint, version bigint, created_at_us bigint, model text, prompt_tokens bigint,"
    " completion_tokens bigint, day text, reasoning_tokens bigint, cached_tokens bigint, calls text")  # fmt: skip

_UPDATES = Part("updates", """
UPDATE {p}messages AS m SET status = n.status, position = n.position, version = n.version,
    created_at_us = coalesce(n.created_at_us, m.created_at_us), model = coalesce(n.model, m.model),
    prompt_tokens = n.prompt_tokens, completion_tokens = n.completion_tokens, day = n.day,
    reasoning_tokens = n.reasoning_tokens, cached_tokens = n.cached_tokens, calls = n.calls
FROM fence CROSS JOIN {rows} AS n
WHERE m.session_no = n.session_no AND m.message_id = n.message_id
""", "status text, position bigint, version bigint, created_at_us bigint, model text, prompt_tokens bigint,"
    " completion_tokens bigint, day text, reasoning_tokens bigint, cached_tokens bigint, calls text, session_no bigint,"
    " message_id text")  # fmt: skip

_COUNTS = Part("counted", """
INSERT INTO {p}counts AS c (status, n)
SELECT n.status, n.n FROM fence CROSS JOIN {rows} AS n
ON CONFLICT (status) DO UPDATE SET n = c.n + excluded.n
""", "status text, n bigint")  # fmt: skip

_LABELS = Part("labelled", """
INSERT INTO {p}labels (label, no) SELECT n.* FROM fence CROSS JOIN {rows} AS n
ON CONFLICT DO NOTHING
""", "label bigint, no bigint")  # fmt: skip

_KEYS = Part("keyed", """
INSERT INTO {p}keys (session_no, label, position)
SELECT n.* FROM fence CROSS JOIN {rows} AS n ON CONFLICT DO NOTHING
""", "session_no bigint, label bigint, position bigint")  # fmt: skip

_USAGE_COLUMNS = "day, model, replies, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens"
_USED = f"day text, model text, {', '.join(f'{name} bigint' for name in _USAGE_COLUMNS.split(', ')[2:])}"
_USAGE = Part("used", f"""
INSERT INTO {{p}}usage AS u (owner, {_USAGE_COLUMNS})
SELECT n.* FROM fence CROSS JOIN {{rows}} AS n
ON CONFLICT (day, owner, model) DO UPDATE SET {ADDED}
""", f"owner text, {_USED}")  # noqa: S608  constants  # fmt: skip

_ERASED_USAGE = Part("erased", f"""
INSERT INTO {{p}}erased_usage AS u (session_no, {_USAGE_COLUMNS})
SELECT n.* FROM fence CROSS JOIN {{rows}} AS n
ON CONFLICT (session_no, day, model) DO UPDATE SET {ADDED}
""", f"session_no bigint, {_USED}")  # noqa: S608  constants  # fmt: skip

_NOTIFIED = "SELECT string_agg(pg_notify(n.channel, n.said)::text, '') FROM {rows} AS n"
_NOTIFICATION = "channel text, said text"

_encode = msgspec.json.Encoder().encode


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
        present, following = checkpoints
        erases = any(one.erased and one.before is not None for one in changes.sessions)
        self._names: list[str] = []
        self.values: list[object] = [following.position, following.digest, following.identity, erases]
        self.values += [present.position, present.digest, label_key]
        sessions = changes.sessions
        self._add(_SESSIONS, [(*session_row(one.session), int(one.session.erasure is not None)) for one in sessions])
        self._add(_COUNTS, list(changes.counts.items()))
        self._add(_LABELS, [(label, one.session.no) for one in sessions for label in one.labels or ()])
        self._add(_MESSAGES, [row for one in sessions if one.inserts for row in _message_rows(one)])
        self._add(_UPDATES, [row for one in sessions if one.updates for row in update_rows(one)])
        self._add(_KEYS, [(one.session.no, *key) for one in sessions for key in one.keys])
        self._add(_USAGE, [(owner, *usage_row(used)) for owner, used in changes.usage])
        self._add(_ERASED_USAGE, [_erased_row(one, used) for one in sessions for used in one.erased_usage])
        if notifications:
            self.values.append(list(notifications))
        self.query = _compose(prefix, tuple(self._names), has_notifications=bool(notifications))

    @property
    def parameters(self) -> list[object]:
        """The values as `query` takes them."""
        return [_encode(value).decode() if isinstance(value, list) else value for value in self.values]

    def _add(self, part: Part, rows: Sequence[Row]) -> None:
        if rows:
            self._names.append(part.name)
            self.values.append(rows)


_PARTS = {part.name: part for part in (_SESSIONS, _COUNTS, _LABELS, _MESSAGES, _UPDATES, _KEYS, _USAGE, _ERASED_USAGE)}
_FENCE_VALUES = 7


@lru_cache(maxsize=512)  # all combinations of parts that occur
def _compose(prefix: str, names: tuple[str, ...], *, has_notifications: bool) -> str:
    parts = [f"fence AS ({_FENCE.format(p=prefix)})"]
    for number, name in enumerate(names, _FENCE_VALUES + 1):
        part = _PARTS[name]
        parts.append(f"{name} AS ({part.text.format(rows=_rows(part.columns, number), p=prefix)})")
    said = _NOTIFIED.format(rows=_rows(_NOTIFICATION, _FENCE_VALUES + len(names) + 1))
    notified = f", ({said})" if has_notifications else ""
    return f"WITH {', '.join(parts)} SELECT position{notified} FROM fence"  # noqa: S608  constants


def _rows(columns: str, number: int) -> str:
    """The rows in the parameter with this number, as a table."""
    names_and_types = [column.split() for column in columns.split(",")]
    cells = [f"(v ->> {index})::{kind} AS {name}" for index, (name, kind) in enumerate(names_and_types)]
    return f"(SELECT {', '.join(cells)} FROM jsonb_array_elements(${number}::jsonb) AS r (v))"  # noqa: S608  constants


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
