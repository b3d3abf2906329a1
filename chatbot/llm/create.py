"""Makes the provider that the settings name."""

from typing import Literal

from chatbot.llm.address import is_completions_endpoint
from chatbot.llm.embedded import EmbeddedProvider
from chatbot.llm.guard import GuardedProvider
from chatbot.llm.lazy import LazyProvider
from chatbot.llm.midm import MidmProvider
from chatbot.llm.openai import OpenAiProvider
from chatbot.llm.options import EmbeddedOptions, LlmOptions
from chatbot.llm.protocol import Provider

ProviderKind = Literal["auto", "midm", "openai", "embedded"]


def create_provider(kind: ProviderKind, llm: LlmOptions, embedded: EmbeddedOptions | None = None) -> GuardedProvider:
    """A guarded provider. `auto` is the embedded model when no server is named, else whatever the server speaks.

    Makes no connection and starts nothing. Raises EmbeddedMissing.
    """
    return GuardedProvider(_create(kind, llm, embedded or EmbeddedOptions()), llm)


def _create(kind: ProviderKind, llm: LlmOptions, embedded: EmbeddedOptions) -> Provider:
    match kind:
        case "midm":
            return MidmProvider(llm)
        case "openai":
            return OpenAiProvider(llm)
        case "auto" if is_completions_endpoint(llm.server_url):
            return OpenAiProvider(llm)
        case "auto" if llm.server_url:
            return LazyProvider(llm, {"midm": MidmProvider, "openai": OpenAiProvider})
        case "auto" | "embedded":
            return EmbeddedProvider(embedded, llm)
