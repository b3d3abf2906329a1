"""How a reply's end reads to a client: one wording for a whole answer, its stream and the session's feed."""

from chatbot.api.problems import CAUSE_UNKNOWN, CAUSES
from chatbot.api.streaming import frames
from chatbot.llm.provider import without_server_words
from chatbot.runtime.timestamps import timestamp
from chatbot.sessions.replies.reply import Outcome

TITLES = {"cancelled": "Reply cancelled", "interrupted": "Reply interrupted"}


def terminal_frame(reply_id: str, outcome: Outcome) -> frames.Complete | frames.Error:
    """What a stream says last of a reply."""
    if outcome.status == "complete":
        return frames.Complete(
            message_id=reply_id,
            full_response=outcome.content,
            finish_reason=outcome.finish_reason,  # type: ignore[arg-type]  # as it was recorded: one of these words
            finish_detail=outcome.finish_detail,
            token_usage=outcome.usage,
            created_at=timestamp(outcome.created_at_us),
            version=outcome.version,
        )
    detail = outcome_detail(outcome)
    return frames.Error(
        status=outcome.status,
        title=TITLES.get(outcome.status) or CAUSES.get(outcome.cause, CAUSE_UNKNOWN)[1],
        detail=detail,
        message=detail,
        message_id=reply_id,
        version=outcome.version,
        length=len(outcome.content),
    )


def outcome_detail(outcome: Outcome) -> str:
    """A sentence for the client, without the model server's own words; those are found by the request's id."""
    if outcome.cause == "llm_unavailable":
        return "LLM server not available"
    if outcome.detail:
        public_detail = without_server_words(outcome.detail)
        if public_detail == outcome.detail or outcome.request_id is None:
            return public_detail
        return (
            f"{public_detail}; auditors find its words in the session's trail,"
            f" under the request id {outcome.request_id}"
        )
    return {
        "shutdown": "the service was shut down while it replied",
        "crash": "the service stopped while it replied",
        "import": "the conversation was copied here before the reply had ended",
        "client": "cancelled at the client's request",
        "deleted": "the session was deleted",
        "superseded": "a newer message took its place",
    }.get(outcome.cause, outcome.cause)
