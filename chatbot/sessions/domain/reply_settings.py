"""How a reply is made: what the request asks for, then what the session has, then the service's defaults. Pure."""

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict, replace

from events.catalogue import MetadataChanged, Parameters, ReplySettings
from events.parameters import UNNAMED

_VALUES = asdict(UNNAMED)  # the value of each parameter that nobody asked for


def merge_parameters(*parameters: Parameters, without_stop: bool = False, tokens_max: int | None = None) -> Parameters:
    """Each parameter from the first of `parameters` that names it. `without_stop`: the first names an empty list.

    `tokens_max` bounds max_new_tokens: settings and earlier turns may be older than the operator's limit.
    """
    found = dict(_VALUES)
    for one in reversed(parameters):
        found |= {name: value for name, value in asdict(one).items() if value != _VALUES[name]}
    if without_stop:
        found["stop"] = ()
    if tokens_max is not None and found["max_new_tokens"] is not None:
        found["max_new_tokens"] = min(found["max_new_tokens"], tokens_max)
    return _interned(Parameters(**found))


def changed_settings(
    settings: ReplySettings, system_prompt: str | UnsetType | None, parameters: Mapping[str, Any]
) -> ReplySettings:
    """`settings` with these in place of what they have; None removes a parameter."""
    prompt = settings.system_prompt if system_prompt is UNSET else system_prompt or None
    named = {name: _VALUES[name] if value is None else value for name, value in parameters.items()}
    return ReplySettings(prompt, _interned(replace(settings.parameters, **named)))


def settings_after(changed_settings: MetadataChanged, created: ReplySettings) -> ReplySettings:
    """The settings after a recorded change of a session that was `created` with these."""
    return created if changed_settings.settings is None else changed_settings.settings


def _interned(parameters: Parameters) -> Parameters:
    return UNNAMED if parameters == UNNAMED else parameters
