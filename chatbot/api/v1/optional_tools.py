"""Tools that a model may leave uncalled: front ends offer some with every message, and many model servers take none.

Such a request is asked again without them once the model server has refused it, and not asked with them for a while.
"""

from collections import OrderedDict
from collections.abc import Callable

from chatbot.llm.provider import FEATURE_WORDS
from chatbot.sessions.domain.commands import IdempotencyKey
from chatbot.sessions.replies.reply import Outcome
from events.schema.parameters import Parameters

REFUSED_FOR_S = 3600.0  # then a model server may have been started with tools
MODELS_MAX = 64  # whose refusals are remembered
SUFFIX = " without tools"  # of the key that makes a repetition harmless


class ToolRefusals:
    """The models that have refused tools lately. `timer`: monotonic seconds."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self._timer = timer
        self._refused_at_s: OrderedDict[str, float] = OrderedDict()

    def note(self, model: str) -> None:
        self._refused_at_s[model] = self._timer()
        self._refused_at_s.move_to_end(model)
        if len(self._refused_at_s) > MODELS_MAX:
            self._refused_at_s.popitem(last=False)

    def has_refused(self, model: str) -> bool:
        refused_at_s = self._refused_at_s.get(model)
        return refused_at_s is not None and self._timer() - refused_at_s < REFUSED_FOR_S


def has_optional_tools(parameters: Parameters) -> bool:
    return parameters.tools is not None and parameters.tool_choice in (None, "auto", "none")


def is_refusal_of_tools(outcome: Outcome) -> bool:
    """Whether the model server refused the request because it takes no tools."""
    return outcome.cause == "unsupported" and FEATURE_WORDS["tools"] in outcome.detail.partition(":")[0].split()


def key_without_tools(key: IdempotencyKey | None) -> IdempotencyKey | None:
    """The key of the second request: the answer to the first one's is the refusal."""
    return None if key is None else IdempotencyKey(key.key + SUFFIX, key.fingerprint)
