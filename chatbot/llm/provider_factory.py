"""Creates the provider that the settings name."""

from collections.abc import Sequence
from typing import Literal

from msgspec.structs import replace

from chatbot.llm.http.server_address import is_completions_endpoint
from chatbot.llm.llm_options import EmbeddedOptions, LlmOptions
from chatbot.llm.provider import Provider
from chatbot.llm.providers.autodetect import AutodetectProvider
from chatbot.llm.providers.embedded_provider import EmbeddedProvider
from chatbot.llm.providers.midm_provider import MidmProvider
from chatbot.llm.providers.openai_provider import OpenAiProvider
from chatbot.llm.resilient_provider import ResilientProvider
from chatbot.llm.servers.pooled_server import PooledServer, ServerOptions
from chatbot.llm.servers.server_pool import ServerPool

ProviderKind = Literal["auto", "midm", "openai", "embedded"]


def create_provider(kind: ProviderKind, llm: LlmOptions, embedded: EmbeddedOptions | None = None) -> ResilientProvider:
    """`auto`: the embedded model if no server is configured, otherwise the protocol that the server speaks.

    Opens no connection and starts no process. Raises EmbeddedMissing.
    """
    return _resilient(kind, llm, embedded or EmbeddedOptions())


def create_pool(servers: Sequence[ServerOptions], llm: LlmOptions, health_interval_s: float) -> ServerPool:
    """Several servers. `llm`: what holds for all of them. Opens no connection."""
    return ServerPool([_pooled(options, health_interval_s) for options in servers], llm)


def _pooled(options: ServerOptions, health_interval_s: float) -> PooledServer:
    llm = replace(options.llm, retries_max=0)  # the pool retries, at whichever server
    provider = _resilient(options.protocol, llm, EmbeddedOptions(), logs_failures=False)
    return PooledServer(options, provider, health_interval_s)


def _resilient(
    kind: ProviderKind, llm: LlmOptions, embedded: EmbeddedOptions, *, logs_failures: bool = True
) -> ResilientProvider:
    provider = _create(kind, llm, embedded)
    resilient = ResilientProvider(provider, llm, logs_failures=logs_failures)
    if isinstance(provider, AutodetectProvider):
        provider.on_detected = resilient.use
    return resilient


def _create(kind: ProviderKind, llm: LlmOptions, embedded: EmbeddedOptions) -> Provider:
    match kind:
        case "midm":
            return MidmProvider(llm)
        case "openai":
            return OpenAiProvider(llm)
        case "auto" if is_completions_endpoint(llm.server_url):
            return OpenAiProvider(llm)
        case "auto" if llm.server_url:
            return AutodetectProvider(llm, {"midm": MidmProvider, "openai": OpenAiProvider})
        case "auto" | "embedded":
            return EmbeddedProvider(embedded, llm)
