"""Checks of the bodies that create or change a session, and what they change."""

from typing import Any

from msgspec import UNSET
from msgspec.structs import asdict

from chatbot.api.request_bodies import ChangeSessionBody, CreateSessionBody, ParametersBody
from chatbot.api.requests import check_options, check_text, check_tokens
from chatbot.config.settings import Settings


def check_settings(body: CreateSessionBody | ChangeSessionBody, settings: Settings) -> None:
    """Raises RequestFault for a system prompt or parameters beyond the limits."""
    if isinstance(body.system_prompt, str):
        check_text(body.system_prompt, "$.system_prompt", settings.chat.system_prompt_max_chars, blank=True)
    if isinstance(body.parameters, ParametersBody):
        check_tokens(body.parameters.max_new_tokens, "$.parameters.max_new_tokens", settings)
        check_options(body.parameters, "$.parameters", settings.chat)


def parameter_changes(body: CreateSessionBody | ChangeSessionBody) -> dict[str, Any]:
    """The session's parameters, by name, that the request sets or removes (None)."""
    changes: dict[str, Any] = {}
    if body.parameters is None:
        changes = dict.fromkeys(ParametersBody.__struct_fields__)
    elif isinstance(body.parameters, ParametersBody):
        named = asdict(body.parameters)
        changes = {name: value for name, value in named.items() if value is not UNSET}
    if isinstance(changes.get("stop"), list):
        changes["stop"] = tuple(changes["stop"])
    if body.model is not UNSET:
        changes["model"] = body.model
    return changes
