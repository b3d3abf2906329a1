"""Rules about API keys: what was acknowledged is in force soon after, on every node, and nobody else's are shown."""

from collections.abc import Iterator

from tests.drills.drill_record import NEVER_S, DrillRecord, FaultSpan, Operation, Violation
from tests.drills.rules.log_index import LogIndex

FORCE_S = 3.0  # from an acknowledged change to its force on all nodes: a second, or the poll where a notice was lost
SHARED_OWNER = "load"  # the name of the key that all other clients share
CHANGES = {"key_add": "key_added", "key_rotate": "key_rotated", "key_revoke": "key_revoked"}


def check_keys(index: LogIndex, record: DrillRecord) -> Iterator[Violation]:
    """Changes that were acknowledged are recorded; a secret gets something while it is valid, and nothing after."""
    granted: dict[str, float] = {}
    ended: dict[str, float] = {}
    ending: dict[str, float] = {}  # when somebody first asked for its end
    recorded = {(one.type, (one.data or {}).get("name")) for one in index.reserved["keys"]}
    for one in record.operations:
        for secret in one.ends:
            ending[secret] = min(one.invoked_s, ending.get(secret, NEVER_S))
        if one.kind not in CHANGES or one.told_s is None:
            continue
        granted |= {one.grants: one.told_s} if one.grants else {}
        ended |= dict.fromkeys(one.ends, one.told_s)
        name = (one.grants or one.ends[0]).partition("#")[0]
        if (CHANGES[one.kind], name) not in recorded:
            yield Violation(
                "keys", f"{one.kind} of {name} was acknowledged, and is not in the log", "", None, one.told_s
            )
    for one in record.operations:
        if one.secret in ended:
            yield from _check_ended(one, _in_force_s(record.faults, ended[one.secret]))
        if one.status == 401 and one.secret in granted:
            is_valid = (one.completed_s or NEVER_S) < ending.get(one.secret, NEVER_S)
            if is_valid and one.invoked_s > _in_force_s(record.faults, granted[one.secret]):
                what = f"{one.kind} with the valid {one.secret} was refused at {one.target}"
                yield Violation("keys", what, one.session_id, None, one.invoked_s)
    for view in record.seen:
        for secret, status in view.keys.items():
            if secret in ended and status != 401:
                yield Violation("keys", f"{view.node} answers {status} to {secret}, which has ended")
            if secret in granted and secret not in ending and status != 200:
                yield Violation("keys", f"{view.node} answers {status} to {secret}, which is valid")


def _check_ended(one: Operation, in_force_s: float) -> Iterator[Violation]:
    """Of a request with a secret that is known nowhere any more since `in_force_s`."""
    if one.invoked_s > in_force_s and 200 <= one.status < 300:
        what = f"{one.kind} with {one.secret}, which had ended, was answered {one.status} at {one.target}"
        yield Violation("keys", what, one.session_id, None, one.invoked_s)
    elif one.status == 200 and one.heard_s is not None and one.heard_s > in_force_s:  # a refusal has bytes, too
        what = f"the stream of {one.secret} at {one.target} went on {one.heard_s - in_force_s:.1f} s too long"
        yield Violation("keys", what, one.session_id, None, one.heard_s)


def _in_force_s(faults: list[FaultSpan], told_s: float) -> float:
    """When a change that was acknowledged then must be in force: the first FORCE_S without a fault are over."""
    from_s = told_s
    for fault in sorted(faults, key=lambda one: one.from_s):
        if fault.from_s <= from_s + FORCE_S and fault.to_s > from_s:
            from_s = fault.to_s
    return from_s + FORCE_S
