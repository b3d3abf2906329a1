"""Creates the provider, or the pool of servers, that the settings name."""

from msgspec.structs import asdict, replace

from chatbot.config.settings import Settings
from chatbot.llm.llm_options import EmbeddedOptions, LlmOptions
from chatbot.llm.provider_factory import create_pool, create_provider
from chatbot.llm.resilient_provider import ResilientProvider
from chatbot.llm.servers.pooled_server import ServerOptions
from chatbot.llm.servers.server_pool import ServerPool


def llm_options(settings: Settings) -> LlmOptions:
    values = asdict(settings.llm)
    return LlmOptions(**{name: values[name] for name in LlmOptions.__struct_fields__})


def server_options(settings: Settings) -> tuple[ServerOptions, ...]:
    """Each server with its own address and key, and what else is in [llm]."""
    common = llm_options(settings)
    return tuple(
        ServerOptions(
            name=one.name,
            llm=replace(
                common,
                server_url=one.url,
                api_key=one.key,
                model=next((name for name in one.models if not name.endswith("*")), ""),
                think_tags=one.think_tags or common.think_tags,
            ),
            protocol=one.protocol,
            models=one.models,
            weight=one.weight,
            concurrency=one.concurrency,
        )
        for one in settings.llm.servers
    )


def configured_provider(settings: Settings) -> ResilientProvider | ServerPool:
    """Raises EmbeddedMissing."""
    llm = llm_options(settings)
    if settings.llm.servers:
        return create_pool(server_options(settings), llm, settings.llm.health_interval_s)
    return create_provider(settings.llm.provider, llm, embedded_options(settings))


def concurrent_replies(settings: Settings) -> int:
    """At most as many as the servers take together, so that replies wait where their owners take turns."""
    caps = [server.concurrency for server in settings.llm.servers]
    return min(settings.llm.concurrent_max, sum(caps)) if caps and all(caps) else settings.llm.concurrent_max


def embedded_options(settings: Settings) -> EmbeddedOptions:
    return EmbeddedOptions(**asdict(settings.embedded))
