"""Which frame tells the readers of a session's stream of which event. Of the other events they are not told."""

FRAME_TYPES = {
    "session_created": "session",
    "metadata_changed": "session",
    "message_posted": "message",
    "message_withdrawn": "removed",
    "reply_requested": "queued",
    "reply_started": "start",
    "reply_completed": "complete",
    "reply_failed": "error",
    "reply_cancelled": "error",
    "reply_interrupted": "error",
    "tool_calls_closed": "calls_closed",
    "branch_selected": "branch",
    "session_expired": "expired",
    "session_deleted": "deleted",
}
RECORDED_FRAME_TYPES = frozenset(FRAME_TYPES.values())
