"""The operations of receipts, of the erasure of many sessions, and of legal holds."""

from typing import Any

from chatbot.api.erasure.erasure_bodies import (
    EraseAnswer,
    EraseBody,
    EraseLine,
    EraseSummary,
    ForgottenView,
    HoldBody,
    HoldList,
    HoldView,
    RedactBody,
    ReleaseBody,
    SessionNotErased,
    SessionToErase,
)
from chatbot.api.openapi.schemas import Kind, Operation, QueryParameter, ResponseSpec
from chatbot.api.response_bodies import ErasureView
from chatbot.audit.receipt import Receipt
from chatbot.sessions.domain.reasons import REASON_CODE, TICKET_MAX_CHARS

_SESSION = "6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14"
_AT, _HOLD = "2026-01-31T12:00:00.000000Z", "b0c5a7d1-3f4e-4a6b-8c9d-0e1f2a3b4c5d"
_BODY = (400, 408, 413, 415, 422)
_RECEIPT = """The last event of an erased session is the receipt of its erasure: `position` and `digest` are those of
the log, so that `chatbot verify --from POSITION:DIGEST` checks what came after. For the key that owned the session and
for the scopes erase and audit. 202: deleted, but forks still copy what they read of it. With `anchors.key_file` set the
receipt is signed; `chatbot receipt --check FILE` verifies it.
"""
_ERASE = """For keys with the scope erase; sessions of any owner. Each line has one member: `receipt` of an erased
session, `not_erased` for one that is left (under a legal hold, not copied to its forks yet, unknown, or refused for
now), `to_erase` with `dry_run` for one that would be erased, and last `summary`. If its `next` is a number, more may
match: send the same request with it as `cursor`. Without the last line the answer was cut: send the same request again.
Sessions that are created meanwhile are found by a request without a cursor.
"""
_FORGET_TICKET = """For keys with the scope erase. A ticket's number is in the record of the erasure; where it names a
person, this erases it there for good. The rest of the receipt stays as it was.
"""
_ADD = """For keys with the scope hold, which can erase nothing. While a hold is in force, nothing of a session that it
covers is erased: DELETE, POST /api/erasures and redactions are refused with 409 `session-held`, and neither retention
nor the limit of stateless requests erases it. It still expires. A hold on metadata covers sessions that have it, had
it earlier, or get it later, and forks, which have their origin's metadata; one on a session covers no fork of it. A
hold is in force once this is answered, on all nodes; what was erased before is gone, which `session_status` says.
"""
_FORGET = """Erases what the log says of holds that were released: their reasons, tickets, owners and metadata. That
they were added and released, when and by whom stays.
"""

_REDACT = """For the session's owner, and for keys with the scope erase in sessions of any owner. The content of the
message, or of its part number `part`, is gone from the log, from all that is made from it, and from all forks that show
the message; its place in the conversation stays, as a part of the kind `redacted` with the reason code. The model is
sent `[redacted]` in its place. Files that nothing else refers to are deleted. Not while a reply runs or waits in one of
these sessions: 409 `session-busy`. The same request once more gets the same receipt. Titles, metadata and system
prompts are no messages: PATCH changes those, and an erasure of the session removes what they were.
"""

ERASE_QUERY = (
    QueryParameter(
        "reason_code", "Why, in the receipt.", {"type": "string", "pattern": f"^{REASON_CODE}$"}, example="gdpr-art-17"
    ),
    QueryParameter(
        "ticket", "The number of the request that it answers, in the receipt.",
        {"type": "string", "minLength": 1, "maxLength": TICKET_MAX_CHARS}, example="DSR-2026-017",
    ),
)  # fmt: skip
READ_RECEIPT = Operation(
    "GET", "/api/sessions/{session_id}/receipt", "read_receipt", "The receipt of a session's erasure",
    {200: ResponseSpec("The receipt.", Receipt), 202: ResponseSpec("Not erased yet.", ErasureView)},
    details=_RECEIPT, problems=(404, 422, 503),
)  # fmt: skip
REDACT = Operation(
    "POST", "/api/sessions/{session_id}/messages/{message_id}/redact", "redact_message",
    "Remove the content of a message, or of one of its parts, for good",
    {200: ResponseSpec("The receipt.", Receipt)}, details=_REDACT, body=RedactBody, headers=("If-Match",),
    problems=(*_BODY, 404, 409, 412, 503),
)  # fmt: skip
FORGET_TICKET = Operation(
    "POST", "/api/sessions/{session_id}/receipt/forget-ticket", "forget_ticket", "Erase the ticket of an erasure",
    {200: ResponseSpec("The receipt, without its ticket.", Receipt)}, details=_FORGET_TICKET,
    problems=(403, 404, 409, 422, 503),
)  # fmt: skip
ERASURES = (
    FORGET_TICKET,
    Operation(
        "POST", "/api/erasures", "erase_sessions", "Erase many sessions, of any owner",
        {200: ResponseSpec("One line for each session, and a summary.", EraseAnswer, line_type=EraseLine)},
        details=_ERASE, body=EraseBody, problems=(*_BODY, 403, 503),
    ),
    Operation(
        "GET", "/api/holds", "list_holds", "The legal holds in force", {200: ResponseSpec("All of them.", HoldList)},
        details="For keys with the scope hold or audit.\n", problems=(403, 422, 503),
    ),
    Operation(
        "POST", "/api/holds", "add_hold", "Keep sessions from being erased", {201: ResponseSpec("In force.", HoldView)},
        details=_ADD, body=HoldBody, problems=(*_BODY, 403, 404, 409, 503),
    ),
    Operation(
        "POST", "/api/holds/{hold_id}/release", "release_hold", "End a hold; what waited for it is erased soon",
        {200: ResponseSpec("The hold, as it was.", HoldView)}, details="For keys with the scope hold.\n",
        body=ReleaseBody, problems=(*_BODY, 403, 404, 503),
    ),
    Operation(
        "POST", "/api/holds/forget", "forget_holds", "Erase what the log says of released holds",
        {200: ResponseSpec("How many.", ForgottenView)}, details=_FORGET, problems=(403, 422, 503),
    ),
)  # fmt: skip

_receipt = Receipt(_SESSION, 12, "request", _AT, 4711, "4f" * 32, reason_code="gdpr-art-17", ticket="DSR-2026-017")
_hold = HoldView(_HOLD, "litigation 12/2026", "LEGAL-12", None, None, {"user_id": "42"}, _AT, "lena")
EXAMPLES: dict[Kind, dict[str, Any]] = {
    Receipt: {"erased": _receipt},
    EraseBody: {
        "person": {"metadata": {"user_id": "42"}, "ever": True, "reason_code": "gdpr-art-17", "ticket": "DSR-2026-017"},
        "sessions": {"session_ids": [_SESSION], "reason_code": "mistake"},
        "preview": {"owner": "mina", "reason_code": "contract-ended", "dry_run": True},
    },
    RedactBody: {
        "message": {"reason_code": "gdpr-art-17", "ticket": "DSR-2026-017"},
        "part": {"reason_code": "third-party", "part": 1},
    },
    EraseLine: {
        "erased": EraseLine(receipt=_receipt),
        "held": EraseLine(not_erased=SessionNotErased(_SESSION, "held", "litigation 12/2026", _HOLD)),
        "preview": EraseLine(to_erase=SessionToErase(_SESSION, "active", 14, _AT)),
        "end": EraseLine(summary=EraseSummary(1, 1, None)),
    },
    EraseAnswer: {
        "one": EraseAnswer([EraseLine(receipt=_receipt), EraseLine(summary=EraseSummary(1, 0, None))]),
    },
    HoldBody: {
        "person": {"reason": "litigation 12/2026", "ticket": "LEGAL-12", "metadata": {"user_id": "42"}},
        "session": {"reason": "litigation 12/2026", "session_id": _SESSION},
    },
    ReleaseBody: {"settled": {"reason": "settled", "ticket": "LEGAL-12"}},
    HoldView: {"person": _hold},
    HoldList: {"one": HoldList([_hold], 0)},
    ForgottenView: {"two": ForgottenView(2, _AT, 4712, "5e" * 32), "none": ForgottenView(0)},
}
