"""What each part is told of the settings. Pure, but for the node's name."""

import os

from msgspec.structs import asdict

from chatbot.config.settings import Settings
from chatbot.llm.options import EmbeddedOptions, LlmOptions
from chatbot.sessions.decide import Rules
from chatbot.sessions.disk_reserve import DiskReserve
from chatbot.sessions.ports import Limits
from events.catalogue import Parameters
from events.options import LogOptions
from projections.runner import RunnerOptions


def log_options(settings: Settings) -> LogOptions:
    wanted = asdict(settings.database)
    return LogOptions(**{name: wanted[name] for name in LogOptions.__struct_fields__})


def runner_options(settings: Settings) -> RunnerOptions:
    database = settings.database
    return RunnerOptions(
        batch_max=database.projection_batch_max, delay_s=database.projection_delay_s, place=database.place
    )


def rules(settings: Settings, node: str | None = None) -> Rules:
    """`node` is this node's name among others; None: it serves alone."""
    return Rules(
        node=node or os.uname().nodename,
        provider=settings.llm.provider,
        model=settings.llm.model,
        max_context_messages=settings.chat.max_context_messages,
        pending_max=settings.sessions.pending_max,
        access_resolution_us=round(settings.sessions.access_resolution_s * 1e6),
        auth=bool(settings.auth.keys),
        retry_interrupted=settings.sessions.retry_interrupted,
        is_shared=node is not None,
        unanswered=settings.chat.unanswered,
        defaults=Parameters(
            max_new_tokens=settings.chat.default_max_tokens,
            temperature=settings.chat.default_temperature,
            do_sample=settings.chat.default_do_sample,
        ),
        tokens_max=settings.chat.max_tokens_ceiling,
    )


def disk_reserve(settings: Settings) -> DiskReserve:
    """PostgreSQL has a disk of its own."""
    database = settings.database
    return DiskReserve(None if database.is_postgres else database.path, database.erase_reserve_bytes)


async def reserve(settings: Settings) -> DiskReserve:
    """With its room taken, as far as the disk can spare it."""
    made = disk_reserve(settings)
    await made.keep()
    return made


def limits(settings: Settings) -> Limits:
    return Limits(
        live_max=settings.sessions.live_max,
        mailbox_max=settings.sessions.mailbox_max,
        idle_timeout_s=settings.sessions.idle_timeout_s,
        ask_timeout_s=settings.sessions.ask_timeout_s,
        checkpoint_interval_s=settings.stream.checkpoint_interval_s,
        read_page_max=settings.database.read_page_max,
        history_max_bytes=settings.server.history_max_bytes,
    )


def llm_options(settings: Settings) -> LlmOptions:
    wanted = asdict(settings.llm)
    return LlmOptions(**{name: wanted[name] for name in LlmOptions.__struct_fields__})


def embedded_options(settings: Settings) -> EmbeddedOptions:
    return EmbeddedOptions(**asdict(settings.embedded))
