"""Which protocol a server speaks, by asking it."""

import contextlib
from typing import Literal

from chatbot.llm.connection import NO_SUCH_ROUTE, Connection, NotJson
from chatbot.llm.errors import LlmError, LlmFailed, LlmUnavailable
from chatbot.llm.model_list import LIST_MAX_BYTES, read_names
from chatbot.llm.refusal import KEY_REFUSED

Kind = Literal["midm", "openai"]


async def detect(connection: Connection) -> Kind:
    """midm when /health tells of `model_loaded`, loaded or not; openai when /v1/models is a list of models, or asks for
    a key, or, where a model is configured, answers anything else that a server without a list may.

    Raises the LlmError that says why nothing is known yet. /health comes first because only midm says `model_loaded`
    there, while proxies offer /v1/models for all kinds.
    """
    with contextlib.suppress(LlmError):
        health = await connection.get("/health")
        if isinstance(health, dict) and "model_loaded" in health:
            return "midm"
    try:
        names = read_names(await connection.get_api("/models", LIST_MAX_BYTES))
    except LlmFailed as error:
        has_no_list = error.status in NO_SUCH_ROUTE or isinstance(error, NotJson)
        if error.status in KEY_REFUSED or (has_no_list and connection.options.model):
            return "openai"
        raise
    if names is None and not connection.options.model:
        raise LlmUnavailable("The server's answers are neither midm's nor OpenAI's")
    return "openai"
