"""Which protocol a server speaks, by asking it."""

import contextlib
from typing import Literal

from chatbot.llm.connection import Connection
from chatbot.llm.errors import LlmError

Kind = Literal["midm", "openai"]


async def detect(connection: Connection) -> Kind | None:
    """midm when /health tells of `model_loaded`, loaded or not; openai when /v1/models is a list of models, or asks for
    a key; None when neither answers so: nothing is known yet. Never raises.

    /health comes first because only midm says `model_loaded` there, while proxies offer /v1/models for all kinds.
    """
    with contextlib.suppress(LlmError):
        health = await connection.get("/health")
        if isinstance(health, dict) and "model_loaded" in health:
            return "midm"
    try:
        models = await connection.get("/v1/models")
    except LlmError as error:
        return "openai" if error.status in (401, 403) else None
    return "openai" if isinstance(models, dict) and isinstance(models.get("data"), list) else None
