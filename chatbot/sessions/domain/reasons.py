"""Why content was erased: a reason code, by which erasures are counted and compared, and a ticket's number. Both are
recorded in the data of the event that explains the erasure, never in its envelope, which nothing can erase.
"""

import re

REASON_CODE = r"[a-z0-9][a-z0-9_-]{0,63}"
TICKET_MAX_CHARS = 200

_REASON_CODE = re.compile(REASON_CODE)


def find_reason_fault(code: str | None) -> str | None:
    """What is wrong with a reason code; None: nothing."""
    if code is None or _REASON_CODE.fullmatch(code):
        return None
    return "a reason code has up to 64 lower-case letters, digits, - and _, such as gdpr-art-17"


def find_ticket_fault(ticket: str | None) -> str | None:
    """What is wrong with a ticket's number; None: nothing."""
    if ticket is None or (ticket.strip() and len(ticket) <= TICKET_MAX_CHARS and ticket.isprintable()):
        return None
    return f"a ticket has 1 to {TICKET_MAX_CHARS} printable characters"


def recorded_code(reason: str, reason_code: str | None) -> str:
    """The code of a recorded erasure: the one that was named, else the service's own or the command's `reason`."""
    if reason_code is not None:
        return reason_code
    return reason if _REASON_CODE.fullmatch(reason) else "erasure"
