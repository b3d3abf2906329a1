"""The types of problems: what each means, and what a client can do. /problems/<name> shows it."""

from msgspec import Struct


class ProblemType(Struct, frozen=True):
    """`status` 0: any status that has no type of its own."""

    status: int
    title: str
    meaning: str
    remedy: str


PROBLEM_TYPES: dict[str, ProblemType] = {
    "malformed": ProblemType(
        400, "Malformed JSON", "The body is not JSON, or is nested too deeply.",
        "Correct the body; `detail` names the first byte that is wrong.",
    ),
    "cut-body": ProblemType(
        400, "Cut body", "The body ended before its announced length, or is not encoded as its headers say.",
        "Send the complete request again.",
    ),
    "bad-request": ProblemType(
        400, "Bad request", "The request is not valid HTTP.",
        "Check that the client speaks plain HTTP to this port, and that no header has invalid characters.",
    ),
    "unauthorized": ProblemType(
        401, "Unauthorized", "The API key is missing or unknown.",
        "Send a valid key as Authorization: Bearer, or as X-API-Key.",
    ),
    "ticket-expired": ProblemType(
        401, "Ticket expired", "The ticket in the address has expired.",
        "Get another with POST /api/tickets and the key, and use it at once. A stream that is open stays open.",
    ),
    "ticket-scope": ProblemType(
        403, "Ticket of another session", "The ticket opens the feed and the files of one session only.",
        "Get a ticket for this session, or one without `session_id`.",
    ),
    "forbidden": ProblemType(
        403, "Forbidden", "The key is valid, but does not have the scope that this needs.",
        "Use a key with the scope that `detail` names; auth.auditors and auth.admins give it to configured keys.",
    ),
    "first-key": ProblemType(
        403, "No key yet", "The service has no keys, so nobody may add one over HTTP.",
        "Make the first key on the server with `chatbot key add`, or set CHATBOT_API_KEYS and auth.admins.",
    ),
    "host-not-allowed": ProblemType(
        403, "Host not allowed", "The Host header is not a name of this service.",
        "Call the service by one of its names, or add the name to the setting server.hosts.",
    ),
    "origin-not-allowed": ProblemType(
        403, "Origin not allowed", "A page of another origin tried to change something.",
        "Add the page's origin to the setting server.cors_origins; have the proxy pass the Host header on.",
    ),
    "no-such-path": ProblemType(
        404, "Not found", "There is nothing at this path.", "See /docs for all paths.",
    ),
    "no-such-file": ProblemType(
        404, "File not found", "There is no such file, or it belongs to others.",
        "Check the SHA-256, the session and the key. An upload that no message refers to is deleted after a while.",
    ),
    "key-not-found": ProblemType(
        404, "Key not found", "There is no API key of this name.", "GET /api/keys lists all of them.",
    ),
    "key-exists": ProblemType(
        409, "Key exists", "The name has been given to an API key before, and its sessions belong to it.",
        "Rotate the key for a new secret, also if it is revoked, or choose another name.",
    ),
    "key-configured": ProblemType(
        409, "Key configured", "The key is one of the setting auth.keys, which only the settings change.",
        "Change CHATBOT_API_KEYS and restart the service, or choose another name.",
    ),
    "key-revoked": ProblemType(
        409, "Key revoked", "The key is revoked already.", "Nothing; rotating it gives it a new secret.",
    ),
    "too-many-keys": ProblemType(
        409, "Too many keys", "There are as many API keys as a service may have, revoked ones included.",
        "Rotate one that is not used any more in place of adding one.",
    ),
    "session-not-found": ProblemType(
        404, "Session not found", "There is no such session, or it belongs to another key.",
        "Check the session's id and the key; else create a session.",
    ),
    "session-expired": ProblemType(
        404, "Session expired", "The session was not accessed for its timeout.",
        "Create a session. A session whose timeout_hours is 0 never expires.",
    ),
    "session-deleted": ProblemType(
        404, "Session deleted", "The session was deleted and its content erased.",
        "Create a session: this one cannot be restored.",
    ),
    "method-not-allowed": ProblemType(
        405, "Method not allowed", "This path does not accept this method.",
        "Use one of the methods in `allow`, which are also in the Allow header.",
    ),
    "timeout": ProblemType(
        408, "Timeout", "The body did not arrive in time.", "Send the request again.",
    ),
    "message-not-found": ProblemType(
        404, "Message not found", "The session has no such message; a queued one may have been removed.",
        "Read the messages again.",
    ),
    "not-queued": ProblemType(
        409, "Not queued", "The message cannot be removed: its reply has started or ended.",
        "Cancel a running reply. To change a message that was answered, post another under its parent.",
    ),
    "session-busy": ProblemType(
        409, "Session busy", "A reply is running, and `on_busy` is reject.",
        "Wait for the reply, cancel it, or send `on_busy` queue or interrupt.",
    ),
    "session-held": ProblemType(
        409, "Session held", "A legal hold covers the session: nothing of it may be erased. `reason` says why.",
        "Try again when the hold is released; who has the scope `hold` can say when.",
    ),
    "too-many-holds": ProblemType(
        409, "Too many holds", "As many legal holds are in force as there may be.",
        "Release some, or hold an owner or metadata in place of single sessions.",
    ),
    "hold-not-found": ProblemType(
        404, "Hold not found", "No legal hold of this id is in force.", "GET /api/holds lists those that are.",
    ),
    "no-receipt": ProblemType(
        404, "No receipt", "The session is not erased.", "Delete it first; the receipt stays afterwards.",
    ),
    "reply-cancelled": ProblemType(
        409, "Reply cancelled", "Under /v1: another client cancelled the reply. Its text so far is kept.",
        "Send the request again for another reply.",
    ),
    "model-not-found": ProblemType(
        404, "Model not found", "Under /v1: the model server offers no model of this name.",
        "GET /v1/models lists the names.",
    ),
    "name-spent": ProblemType(
        409, "Name spent", "Under /v1: too many conversations of this name were deleted or have expired.",
        "Give the conversation another name.",
    ),
    "calls-open": ProblemType(
        409, "Tool calls open", "The newest reply waits for the results of its tool calls, and `on_busy` is reject.",
        "Post the results of `call_ids` with the role tool, cancel the calls, or send `on_busy` queue.",
    ),
    "calls-closed": ProblemType(
        409, "Tool calls closed", "The tool calls were cancelled, or the conversation went on without their results.",
        "Regenerate the reply, or go on with a message of the user.",
    ),
    "no-open-calls": ProblemType(
        409, "No tool calls", "Results were sent after a message that is no reply with tool calls.",
        "Send the id of the reply with the calls as `parent_id`.",
    ),
    "version-mismatch": ProblemType(
        412, "Precondition failed", "The session has changed since the version in If-Match.",
        "Read the session again and decide whether the request still makes sense.",
    ),
    "version-behind": ProblemType(
        412, "Precondition failed", "The session has not reached the version in `at_least`.",
        "Check the version and the session's id: reads show everything recorded before them.",
    ),
    "body-too-large": ProblemType(
        413, "Body too large", "The body exceeds the setting server.body_max_bytes, under /v1 v1.body_max_bytes.",
        "Send a smaller body.",
    ),
    "file-too-large": ProblemType(
        413, "File too large", "The file exceeds the setting media.max_bytes.", "Send a smaller file.",
    ),
    "address-too-long": ProblemType(
        414, "Address too long", "The path and query are too long.", "Send a shorter address.",
    ),
    "media-type": ProblemType(
        415, "Unsupported media type", "The body's Content-Type is not application/json.",
        "Send JSON, with Content-Type: application/json.",
    ),
    "file-type": ProblemType(
        415, "File type not accepted", "By its first bytes the file is of no type that the setting media.types lists.",
        "Send a file of one of the types in `detail`.",
    ),
    "content-encoding": ProblemType(
        415, "Unsupported content encoding", "The body is compressed.", "Send it without Content-Encoding.",
    ),
    "range-not-satisfiable": ProblemType(
        416, "Range not satisfiable", "The range begins behind the end of the file.",
        "Ask for a range within `size`.",
    ),
    "expectation-failed": ProblemType(
        417, "Expectation failed", "The Expect header asks for something other than 100-continue.",
        "Leave the Expect header out.",
    ),
    "invalid": ProblemType(
        422, "Invalid", "A value in the body, the query or a header is not allowed.",
        "Correct the values at the paths in `errors`.",
    ),
    "context-too-long": ProblemType(
        422, "Context too long", "Under /v1: the messages do not fit into the model's context.",
        "Send fewer or shorter messages.",
    ),
    "unknown-message": ProblemType(
        422, "Unknown message", "The session has no message with this id.", "Read the session's messages again.",
    ),
    "unknown-reply": ProblemType(
        422, "Unknown reply", "The session has no reply with this id.", "Read the session's messages again.",
    ),
    "calls-unanswered": ProblemType(
        422, "Results missing", "Results were sent for some of a reply's tool calls.",
        "Send the results of all calls in one message: those of `call_ids`, too.",
    ),
    "too-many-rounds": ProblemType(
        422, "Too many rounds", "The turn has as many replies with tool calls as chat.tool_rounds_max allows.",
        "Go on with a message of the user, or cancel the calls.",
    ),
    "unsupported": ProblemType(
        422, "Not supported", "The model server does not take what a field of the request asks for.",
        "Leave the field out, or use another model server.",
    ),
    "nothing-to-regenerate": ProblemType(
        422, "Nothing to regenerate", "The selected branch has no reply.", "Post a message first.",
    ),
    "key-reused": ProblemType(
        422, "Idempotency-Key reused", "The Idempotency-Key was used with another request before.",
        "Use a new key for each new request.",
    ),
    "key-spent": ProblemType(
        422, "Idempotency-Key spent", "The session or the message that this Idempotency-Key created no longer exists.",
        "Use a new key.",
    ),
    "too-many-pending": ProblemType(
        429, "Too many messages are waiting", "Too many messages wait for the session's running reply.",
        "Try again when a reply has ended; Retry-After says when.",
    ),
    "over-share": ProblemType(
        429, "Over its share", "The key has its share of the model's queue, of the streams, exports, verifications or"
        " request bodies, and others use the rest; or it is at a limit for one key. Nothing was changed.",
        "Try again after Retry-After, with fewer requests at once.",
    ),
    "too-many-failures": ProblemType(
        429, "Too many failures", "The client's address has sent more wrong keys or tickets than the setting"
        " auth.failures_per_minute allows.",
        "Send a valid key, which is accepted at any time; do not repeat a wrong one.",
    ),
    "media-quota": ProblemType(
        429, "Too many unused uploads", "The caller's uploads that no message refers to exceed the setting"
        " media.unused_max_bytes.",
        "Refer to them in messages, or wait until they are deleted; the setting media.orphan_hours says when.",
    ),
    "headers-too-large": ProblemType(
        431, "Headers too large", "The headers exceed the setting server.headers_max_bytes.",
        "Send fewer or shorter headers.",
    ),
    "internal-error": ProblemType(
        500, "Internal error", "A fault of the service.",
        "Give the operator the X-Request-ID of the answer: the log has the cause under it.",
    ),
    "internal": ProblemType(
        500, "Internal error", "A fault of the service ended the reply. Its text so far is kept.",
        "Give the operator the X-Request-ID of the answer; ask for another reply with regenerate.",
    ),
    "llm-failed": ProblemType(
        502, "LLM server failed", "The model server failed. The text so far is kept.",
        "Ask for another reply with regenerate.",
    ),
    "llm-unavailable": ProblemType(
        503, "LLM server not available", "The model server cannot be reached. The message is kept.",
        "Ask for another reply with regenerate when /api/health reports the model server as available.",
    ),
    "llm-overloaded": ProblemType(
        503, "Overloaded", "The model server has too much to do. The message is kept.",
        "Ask for another reply with regenerate, after Retry-After.",
    ),
    "llm-timeout": ProblemType(
        504, "LLM server too slow", "The model server was too slow. The text so far is kept.",
        "Ask for another reply with regenerate.",
    ),
    "shutdown": ProblemType(
        503, "Reply interrupted", "The service was shut down during the reply. The text so far is kept.",
        "Ask for another reply with regenerate when the service is back.",
    ),
    "crash": ProblemType(
        503, "Reply interrupted", "The service stopped during the reply. The text so far is kept.",
        "Ask for another reply with regenerate.",
    ),
    "import": ProblemType(
        503, "Reply interrupted", "The conversation was copied here before the reply had ended.",
        "Ask for another reply with regenerate.",
    ),
    "overloaded": ProblemType(
        503, "Overloaded", "The service or the model server has too much to do. Nothing was changed, unless `detail`"
        " says otherwise.",
        "Try again after Retry-After.",
    ),
    "draining": ProblemType(
        503, "Shutting down", "The service is shutting down and accepts no new work.",
        "Try again: the service that replaces it answers.",
    ),
    "outcome-unknown": ProblemType(
        503, "Perhaps recorded", "The database did not confirm whether the change was recorded.",
        "Try again with the same Idempotency-Key, or read the session before you try again.",
    ),
    "other-node-outdated": ProblemType(
        503, "Another node must be updated", "Another node cannot read yet what this change would record. Nothing was"
        " changed.",
        "The operator has to update the node that the log names.",
    ),
    "node-outdated": ProblemType(
        503, "This node must be updated", "A newer version of the service has recorded events that this node cannot"
        " read.",
        "The operator has to update this node.",
    ),
    "log-unavailable": ProblemType(
        503, "Cannot record just now", "The event log cannot be written or read. Nothing was changed.",
        "Try again after Retry-After.",
    ),
    "projections-unavailable": ProblemType(
        503, "Cannot read just now", "The projections cannot be read.", "Try again after Retry-After.",
    ),
    "http-error": ProblemType(
        0, "Any other HTTP error", "The request was refused for a reason that has no type of its own.",
        "See `status` and `detail`.",
    ),
}  # fmt: skip
