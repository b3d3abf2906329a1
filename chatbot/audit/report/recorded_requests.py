"""The requests to models behind the replies of a report."""

import msgspec
from msgspec.structs import replace

from chatbot.audit.model_calls import ModelCall, UnknownProtocol, build_request_body, read_model_calls
from chatbot.audit.report.entries import MessageEntry
from chatbot.runtime.throttle import DutyCycleThrottle
from events.log import EventLog

REQUEST_BYTES_MAX = 2**20  # of one request in a report


class RecordedRequests:
    """The requests behind the replies of a session, in the order in which the replies ended."""

    def __init__(self, log: EventLog, session_id: str, throttle: DutyCycleThrottle) -> None:
        self._calls = read_model_calls(log, session_id)
        self._throttle = throttle
        self._next: ModelCall | None = None

    async def with_request(self, entry: MessageEntry) -> MessageEntry:
        """The reply with the request that it answers; unchanged where no model was asked for it."""
        while True:
            async with self._throttle.piece():
                call = self._next or await anext(self._calls, None)
            self._next = None
            if call is None:
                return entry
            if call.recorded.version > entry.version:  # of a later reply: no model was asked for this one
                self._next = call
                return entry
            if call.started.reply_id == entry.message_id:
                return _with_request(entry, call)


def _with_request(entry: MessageEntry, call: ModelCall) -> MessageEntry:
    if call.erased_message_ids:
        return replace(entry, request_left_out="texts of its context are erased")
    try:
        body = build_request_body(call, call.provider, call.started.model or entry.model or "")
    except UnknownProtocol as error:
        return replace(entry, request_left_out=str(error))
    if len(msgspec.json.encode(body)) > REQUEST_BYTES_MAX:
        return replace(entry, request_left_out=f"too large for a report: chatbot prompt --reply {entry.message_id}")
    return replace(entry, request=body)
