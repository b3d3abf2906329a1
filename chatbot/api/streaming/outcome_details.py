"""What clients are told of a reply that did not complete."""

from chatbot.llm.provider import NO_SERVER, without_server_words
from chatbot.sessions.replies.reply import Outcome


def outcome_detail(outcome: Outcome) -> str:
    """A sentence for the client, without the model server's own words, which auditors find by the request id."""
    if outcome.cause == "llm_unavailable":
        return NO_SERVER if outcome.detail == NO_SERVER else "LLM server not available"
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
        "disconnected": "its client disconnected",
        "deleted": "the session was deleted",
        "superseded": "a newer message took its place",
    }.get(outcome.cause, outcome.cause)
