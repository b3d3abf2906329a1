"""The operation that gives out tickets."""

from chatbot.api.openapi.schemas import Operation, ResponseSpec
from chatbot.api.request_bodies import TicketBody
from chatbot.api.response_bodies import TicketView

_TICKETS = """For addresses that carry no header, as of EventSource and of images: `?ticket=` opens a session's stream,
the stream of changes, and files, each with GET, in the name of the key that asked for it. With `session_id` it opens
that session's stream, and files with this `session_id`. It ends at `expires_at`, or when its key is removed; a stream
that is open stays open. A request with a header ignores it. Without API keys nothing needs a ticket: both fields are
null.
"""

ISSUE_TICKET = Operation(
    "POST",
    "/api/tickets",
    "issue_ticket",
    "Get a ticket to read feeds and files for a short time",
    {200: ResponseSpec("The ticket.", TicketView)},
    details=_TICKETS,
    body=TicketBody,
    body_optional=True,
    problems=(400, 408, 413, 415, 422),
)
