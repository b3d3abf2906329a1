"""What a drill comes to, for people: a table of what was done and checked, a violation with what stood around it."""

from collections import Counter
from collections.abc import Iterator

from tests.drills.drill import DrillResult
from tests.drills.drill_record import DrillRecord, Violation

NEAR_VERSIONS, NEAR_S = 6, 1.5
WIDTH_MAX = 220


def table(result: DrillResult) -> str:
    """What was injected, and how much was checked."""
    record = result.record
    operations = record.operations
    asked = Counter(one.kind for one in operations)
    told = Counter(one.kind for one in operations if one.is_told)
    unknown = sum(not one.is_told and not one.is_refused for one in operations)
    ends = Counter(one.type for one in record.log if one.type.startswith("reply_"))
    rows = [("fault", "times"), *sorted(result.injected.items()), ("", "")]
    if result.no_network_reason:
        rows += [("no cuts", result.no_network_reason), ("", "")]
    rows += [("asked", "times, of these acknowledged")]
    rows += [(kind, f"{asked[kind]}, {told[kind]}") for kind in sorted(asked)]
    rows += [("outcome unknown", unknown), ("", "")]
    rows += [("frames heard", len(record.heard)), ("connections of readers", result.connections)]
    rows += [("events in the log", len(record.log)), *sorted(ends.items())]
    return "\n".join(f"{name:34} {number}" for name, number in rows)


def violation_context(record: DrillRecord, violation: Violation) -> str:
    """The events and operations of its session that stand near it in the log, or in time."""
    lines = [f"{violation.rule}: {violation.what}", f"session {violation.session_id or '-'}"]
    return "\n".join([*lines, *_events(record, violation), *_operations(record, violation)])


def _events(record: DrillRecord, violation: Violation) -> Iterator[str]:
    for one in record.log:
        if one.session_id != violation.session_id:
            continue
        is_near = violation.version is not None and abs(one.version - violation.version) <= NEAR_VERSIONS
        if is_near or _is_near(one.recorded_s, violation):
            text = f"  log    {one.recorded_s:.3f} {one.position} v{one.version} {one.type} {one.data}"
            yield text[:WIDTH_MAX]


def _operations(record: DrillRecord, violation: Violation) -> Iterator[str]:
    for one in sorted(record.operations, key=lambda one: one.invoked_s):
        if one.session_id == violation.session_id and _is_near(one.invoked_s, violation):
            span = f"{one.invoked_s:.3f}-{one.completed_s or 0:.3f}"
            what = f"{one.client} {one.kind} at {one.target}: {one.status} {one.problem} v{one.version}"
            more = f"if-match {one.if_version} reply {one.reply_id} {one.reply_status} sent {one.sent!r}"
            yield f"  client {span} {what} {more}"[:WIDTH_MAX]


def _is_near(at_s: float, violation: Violation) -> bool:
    return violation.at_s is not None and abs(at_s - violation.at_s) <= NEAR_S
