"""What requests say of how replies are to be made: checked against the settings, and as the session is told it."""

from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from chatbot.api.request_bodies import (
    ChangeSessionBody,
    ChatBody,
    CreateSessionBody,
    ParametersBody,
    ReplyBody,
    RequestFault,
    canonical_id,
    check_text,
)
from chatbot.config.settings import Settings
from events.catalogue import Parameters


def check_chat(body: ChatBody, settings: Settings) -> None:
    """What the type alone cannot say. Raises BodyFault."""
    if canonical_id(body.session_id) is None:
        raise RequestFault("is not a UUID", "$.session_id")
    check_text(body.message, "$.message", settings.chat.message_max_chars)
    check_tokens(body.max_new_tokens, "$.max_new_tokens", settings)


def check_tokens(max_new_tokens: int | UnsetType | None, path: str, settings: Settings) -> None:
    """Raises BodyFault for more tokens than one reply may cost."""
    ceiling = settings.chat.max_tokens_ceiling
    if isinstance(max_new_tokens, int) and max_new_tokens > ceiling:
        raise RequestFault(f"expected `int` <= {ceiling}", path)


def check_settings(body: CreateSessionBody | ChangeSessionBody, settings: Settings) -> None:
    """Raises BodyFault for a system prompt or parameters beyond the limits."""
    if isinstance(body.system_prompt, str):
        check_text(body.system_prompt, "$.system_prompt", settings.chat.system_prompt_max_chars, blank=True)
    if isinstance(body.parameters, ParametersBody):
        check_tokens(body.parameters.max_new_tokens, "$.parameters.max_new_tokens", settings)


def parameters_of(body: ReplyBody) -> Parameters:
    """What the request asks for."""
    return Parameters(
        max_new_tokens=body.max_new_tokens,
        temperature=body.temperature,
        do_sample=body.do_sample,
        top_p=body.top_p,
        stop=tuple(body.stop or ()),
        seed=body.seed,
        model=body.model,
    )


def parameter_changes(body: CreateSessionBody | ChangeSessionBody) -> dict[str, Any]:
    """Parameters of the session, by name, that the request sets, or removes (None)."""
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
