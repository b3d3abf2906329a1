"""Waits until it is known whether the model server refuses a request because it has tools; and the one without them."""

import asyncio

from aiohttp import web
from msgspec.structs import replace

from chatbot.api.streaming.response_stream import STREAMS
from chatbot.api.v1.optional_tools import ToolRefusals, is_refusal_of_tools, key_without_tools
from chatbot.sessions.conversations import TranscriptRequest, generation_key
from chatbot.sessions.feeds.channels import wait_any
from chatbot.sessions.replies.growing_parts import NO_PART
from chatbot.sessions.replies.reply import Reply

TOOL_REFUSALS: web.AppKey[ToolRefusals] = web.AppKey("tool_refusals", ToolRefusals)


async def await_begin(request: web.Request, reply: Reply) -> None:
    """Return when there is something to send, or a ping is due."""
    is_due = False

    def end_wait() -> None:
        nonlocal is_due
        is_due = True
        reply.signal.notify()

    timer = asyncio.get_running_loop().call_later(request.app[STREAMS].ping_s, end_wait)  # cheaper than a timeout
    try:
        while not (is_due or _has_begun(reply)):
            await wait_any(reply.signal)
    finally:
        timer.cancel()


async def refuses_tools(request: web.Request, reply: Reply) -> bool:
    """Whether the model server has refused the request because it has tools."""
    await await_begin(request, reply)
    return reply.outcome is not None and is_refusal_of_tools(reply.outcome)


def _has_begun(reply: Reply) -> bool:
    """Whether there is something to send: text, a part, or how the reply ended."""
    is_over = reply.outcome is not None or reply.unrecorded is not None
    return is_over or reply.length > 0 or reply.last_part != NO_PART


def without_tools(request: TranscriptRequest) -> TranscriptRequest:
    """The same request, with a key of its own where it has one: the first one's answer is the refusal."""
    parameters = replace(request.parameters, tools=None, tool_choice=None, parallel_tool_calls=None)
    key = request.idempotency_key
    if key is None and request.reply_client_id is not None:
        key = generation_key(request.reply_client_id, request.messages)
    return replace(request, parameters=parameters, idempotency_key=key_without_tools(key))
