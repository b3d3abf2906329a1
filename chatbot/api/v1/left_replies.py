"""What is done about a reply after its client has left or has had it all: it is cancelled, or its session erased."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from aiohttp import web

from chatbot.api.access.authorization import CALLER
from chatbot.api.services import SERVICES
from chatbot.api.v1.optional_tools import is_refusal_of_tools
from chatbot.api.v1.refused_tools import TOOL_REFUSALS
from chatbot.sessions.domain.commands import SERVICE, CancelReply, DeleteSession
from chatbot.sessions.domain.rejections import Rejection
from chatbot.sessions.replies.reply import Reply
from events.errors import LogError
from projections.errors import ProjectionError

NOT_STORED = "not_stored"  # the recorded reason and cause
# Tasks of this kind; each ends by itself, after one command.
DETACHED_TASKS: web.AppKey[set[asyncio.Task[None]]] = web.AppKey("detached_tasks", set)


def cancel_if_running(request: web.Request, session_id: str, reply: Reply) -> None:
    """Cancel a reply whose client has left."""
    services = request.app[SERVICES]
    if reply.outcome is not None or reply.unrecorded is not None:
        return

    async def cancel() -> None:
        command = CancelReply(cause="disconnected", reply_id=reply.reply_id)
        try:
            await services.supervisor.ask(session_id, command, request[CALLER])
        except (Rejection, LogError, ProjectionError) as error:  # the reply ends by itself
            services.logger.debug("reply.not_cancelled", reason=type(error).__name__)

    _ = _start(request, cancel(), f"cancel {reply.reply_id}")  # the handler's own task is being cancelled


def erase_when_ended(request: web.Request, session_id: str, reply: Reply) -> asyncio.Task[None]:
    """Erase a session that is not to be stored, once its reply has ended. What cannot be erased now is erased by its
    expiry.
    """
    services = request.app[SERVICES]

    async def erase() -> None:
        try:
            await reply.wait_end()
            await services.supervisor.ask(session_id, DeleteSession(NOT_STORED), SERVICE, cause=NOT_STORED)
        except (Rejection, LogError, ProjectionError) as error:
            services.logger.warning("response.not_erased", reason=type(error).__name__)

    return _start(request, erase(), f"erase {session_id}")


def note_refusal(request: web.Request, model: str, reply: Reply) -> None:
    """Remember a refusal of tools when the reply has ended: nobody waits for it."""

    async def note() -> None:
        with suppress(LogError):
            if is_refusal_of_tools(await reply.wait_end()):
                request.app[TOOL_REFUSALS].note(model)

    _ = _start(request, note(), f"note {reply.reply_id}")


def _start(request: web.Request, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    tasks = request.app[DETACHED_TASKS]
    task = asyncio.create_task(work, name=name)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task
