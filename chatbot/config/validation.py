"""Validates combinations of settings: faults stop the start; risks and hints are logged."""

import re
from collections.abc import Iterator
from ipaddress import ip_network

from msgspec import Struct

from chatbot.config.anchor_targets import InvalidTarget, parse_target, parse_witnessed
from chatbot.config.database_url import parse_database_url
from chatbot.config.host_addresses import is_loopback, is_unspecified
from chatbot.config.sections.llm_server import LlmServer
from chatbot.config.settings import Settings
from chatbot.config.text_checks import host_mistake, path_mistake

SECRET_MIN_CHARS = 16  # shorter ones can be guessed over the network
JSON_BYTES_PER_CHAR = 12  # the longest JSON escape of one character: \ud83d\ude00
MIDM_BYTES_PER_CHAR = 6  # each line repeats the reply so far, most of it in escapes such as \uc548
_KEY_NAME = re.compile(r"[a-z0-9_-]{1,64}")


class Fault(Struct, frozen=True):
    """Why the values of these settings are wrong, alone or together."""

    names: tuple[str, ...]
    reason: str


def find_faults(settings: Settings) -> Iterator[Fault]:
    """Every fault that the bounds of single settings do not cover."""
    yield from _database(settings)
    yield from _names(settings)
    yield from _proxies(settings)
    yield from _keys(settings)
    yield from _nodes(settings)
    yield from _anchors(settings)
    yield from _chat(settings)
    yield from _llm(settings)


def _database(settings: Settings) -> Iterator[Fault]:
    try:
        parse_database_url(settings.database.url)
    except ValueError as error:
        yield Fault(("database.url",), str(error))
        return
    if not settings.database.is_postgres and settings.database.projections == settings.database.path:
        yield Fault(("database.projections_path", "database.url"), "the projections need a file of their own")


def _names(settings: Settings) -> Iterator[Fault]:
    """Paths and hosts that cannot be what was intended."""
    paths = {
        "database.projections_path": settings.database.projections_path,
        "embedded.model_path": settings.embedded.model_path,
        "llm.ca_file": settings.llm.ca_file,
    }
    hosts = {
        "server.host": settings.server.host,
        "nodes.listen_host": settings.nodes.listen_host,
        "nodes.advertise_host": settings.nodes.advertise_host,
    }
    for name, path in paths.items():
        if mistake := path_mistake(path):
            yield Fault((name,), mistake)
    for name, host in hosts.items():
        if mistake := host_mistake(host):
            yield Fault((name,), mistake)


def _proxies(settings: Settings) -> Iterator[Fault]:
    for one in settings.server.trusted_proxies:
        try:
            ip_network(one, strict=False)
        except ValueError:
            yield Fault(("server.trusted_proxies",), f"{one} is no address and no network")


def _keys(settings: Settings) -> Iterator[Fault]:
    auth = settings.auth
    for number, (name, secret) in enumerate(auth.keys.items(), start=1):
        # by number: if the two were swapped, the name is the secret
        if not _KEY_NAME.fullmatch(name):
            yield Fault(("auth.keys",), f"the name of key {number} has other characters or is too long")
        if len(secret) < SECRET_MIN_CHARS:
            yield Fault(("auth.keys",), f"the secret of key {number} has {len(secret)} characters")
        if not _fits_a_header(secret):
            yield Fault(("auth.keys",), f"the secret of key {number} has characters that no HTTP header carries")
    if len(set(auth.keys.values())) < len(auth.keys):
        yield Fault(("auth.keys",), "two names have the same secret")
    for setting, names in {
        "auth.auditors": auth.auditors,
        "auth.admins": auth.admins,
        "auth.front_ends": auth.front_ends,
    }.items():
        if not all(_KEY_NAME.fullmatch(name) for name in names):
            yield Fault((setting,), "it lists the names of keys, which are 1 to 64 of a-z 0-9 _ -")
    if 0 < len(settings.v1.user_jwt_secret) < SECRET_MIN_CHARS:
        yield Fault(("v1.user_jwt_secret",), f"it has {len(settings.v1.user_jwt_secret)} characters")


def _nodes(settings: Settings) -> Iterator[Fault]:
    """Other nodes read and cancel replies at this port: it needs a secret unless it is local."""
    nodes = settings.nodes
    if nodes.secret and (len(nodes.secret) < SECRET_MIN_CHARS or not _fits_a_header(nodes.secret)):
        yield Fault(("nodes.secret",), "it is too short, or no HTTP header carries it")
    if not nodes.secret and not is_loopback(nodes.listen_host):
        yield Fault(("nodes.secret", "nodes.listen_host"), "a port that other machines reach needs a secret")
    if is_unspecified(nodes.advertise_host or nodes.listen_host):
        # Other nodes would connect to themselves, take this node for dead and its replies for lost.
        yield Fault(
            ("nodes.advertise_host", "nodes.listen_host"),
            "an address of all networks leads every machine to itself: say by which name or address others reach this"
            " one",
        )


def _anchors(settings: Settings) -> Iterator[Fault]:
    anchors, witness = settings.anchors, settings.witness
    for text in anchors.targets:
        try:
            parse_target(text)
        except InvalidTarget as error:
            yield Fault(("anchors.targets",), f"{text.partition('?')[0]}: {error}")
    if anchors.targets and not anchors.key_file:
        yield Fault(("anchors.targets", "anchors.key_file"), "an anchor is signed: name the file with the key")
    for text in witness.logs:
        try:
            parse_witnessed(text)
        except InvalidTarget as error:
            yield Fault(("witness.logs",), f"{text}: {error}")
    if bool(witness.logs) != bool(witness.key_file):
        yield Fault(("witness.logs", "witness.key_file"), "a witness needs a key, and logs to sign")


def _fits_a_header(secret: str) -> bool:
    return secret.isascii() and secret.isprintable() and " " not in secret


def _chat(settings: Settings) -> Iterator[Fault]:
    chat = settings.chat
    if chat.default_max_tokens > chat.max_tokens_ceiling:
        yield Fault(
            ("chat.default_max_tokens", "chat.max_tokens_ceiling"),
            "a request that names no number must not get more than one that does",
        )
    if len(chat.system_prompt) > chat.system_prompt_max_chars:
        yield Fault(
            ("chat.system_prompt", "chat.system_prompt_max_chars"),
            f"the prompt has {len(chat.system_prompt)} characters",
        )
    if chat.message_max_chars * JSON_BYTES_PER_CHAR > settings.server.body_max_bytes:
        yield Fault(
            ("chat.message_max_chars", "server.body_max_bytes"),
            f"the longest message may take {JSON_BYTES_PER_CHAR} bytes a character and would be refused as too large",
        )


def _llm(settings: Settings) -> Iterator[Fault]:
    llm = settings.llm
    yield from _llm_servers(settings)
    if not llm.servers and llm.provider in {"midm", "openai"} and not llm.server_url:
        yield Fault(("llm.provider", "llm.server_url"), "this provider needs a server: set LLM_SERVER_URL")
    if not _fits_a_header(llm.api_key):
        yield Fault(("llm.api_key",), "it has characters that no HTTP header carries")
    if llm.server_url and llm.provider in {"auto", "midm"} and _midm_line(settings) > llm.line_max_bytes:
        yield Fault(
            ("llm.line_max_bytes", "llm.reply_max_chars"),
            f"the longest reply takes a line of {_midm_line(settings)} bytes from a midm server",
        )
    embedded = llm.provider == "embedded" or (llm.provider == "auto" and not llm.server_url and not llm.servers)
    if embedded and settings.chat.default_max_tokens >= settings.embedded.context_tokens:
        yield Fault(
            ("chat.default_max_tokens", "embedded.context_tokens"),
            "the context holds prompt and reply, so no room is left for a prompt",
        )


def _llm_servers(settings: Settings) -> Iterator[Fault]:
    """Each server has its own address, protocol and key: those of [llm] would belong to none of them."""
    llm = settings.llm
    if not llm.servers:
        return
    for name in ("server_url", "api_key"):
        if getattr(llm, name):
            own = {"server_url": "url", "api_key": "key"}[name]
            yield Fault((f"llm.{name}", "llm.servers"), f"with several servers each has a {own} of its own")
    if llm.provider != "auto":
        yield Fault(("llm.provider", "llm.servers"), "with several servers each has a protocol of its own")
    if llm.model and not any(_has_model(server, llm.model) for server in llm.servers):
        yield Fault(("llm.model", "llm.servers"), "none of the servers has this model in its `models`")
    names = [server.name for server in llm.servers]
    for number, server in enumerate(llm.servers):
        path = f"llm.servers[{number}]"
        if server.name in names[:number]:
            yield Fault((f"{path}.name",), "an earlier server has this name")
        if not _fits_a_header(server.key):
            yield Fault((f"{path}.key",), "it has characters that no HTTP header carries")
        if server.protocol != "openai" and _midm_line(settings) > llm.line_max_bytes:
            yield Fault(
                ("llm.line_max_bytes", "llm.reply_max_chars", f"{path}.protocol"),
                f"the longest reply takes a line of {_midm_line(settings)} bytes from a midm server",
            )


def _has_model(server: LlmServer, model: str) -> bool:
    """As far as the settings say: a server without `models` may have any."""
    return not server.models or any(
        model == name or (name.endswith("*") and model.startswith(name[:-1])) for name in server.models
    )


def _midm_line(settings: Settings) -> int:
    return settings.llm.reply_max_chars * MIDM_BYTES_PER_CHAR


def find_risks(settings: Settings) -> tuple[str, ...]:
    """Settings that are allowed but risky; logged as warnings at the start."""
    return tuple(_warn_of_open_access(settings))


def find_hints(settings: Settings) -> tuple[str, ...]:
    """Settings that are right for one machine only; logged at level info at the start."""
    return tuple(_hint_at_loopback_node(settings))


def _warn_of_open_access(settings: Settings) -> Iterator[str]:
    if settings.auth.keys:
        return
    host, origins = settings.server.host, settings.server.cors_origins
    ways = []
    if not is_loopback(host):
        ways.append(f"everybody who reaches this port (server.host is {host})")
    if "*" in origins:
        ways.append("any web page that somebody opens in a browser here (server.cors_origins is *)")
    if ways:
        yield (
            f"NO API KEY IS CONFIGURED: {' and '.join(ways)} can read and delete every conversation; set"
            " CHATBOT_API_KEYS, or HOST=127.0.0.1 and CORS_ORIGINS= (empty); auth.require_keys refuses such a start"
        )


def _hint_at_loopback_node(settings: Settings) -> Iterator[str]:
    nodes = settings.nodes
    if settings.database.is_postgres and is_loopback(nodes.advertise_host or nodes.listen_host):
        yield (
            "nodes.listen_host is this machine's own: a node on another machine that shares this database would take"
            " this one for dead and close its replies as interrupted; for several machines set"
            " CHATBOT_NODES_LISTEN_HOST and CHATBOT_NODES_SECRET"
        )
