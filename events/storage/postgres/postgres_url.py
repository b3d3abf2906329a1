"""PostgreSQL URLs: libpq's parameters mapped to asyncpg's, the others passed to the server as settings.

libpq's documentation lists the parameters, https://www.postgresql.org/docs/current/libpq-connect.html. Pure functions.
"""

import shlex
from urllib.parse import parse_qsl, quote, urlencode

from msgspec import Struct

from events.errors import LogUnusable, Remedy

CONNECT_S = 5.0  # for connecting, where the URL has no timeout: a host that has vanished does not answer
CONNECT_MAX_S = 60.0  # the longest timeout of a URL: libpq's 0 means no limit
APPLICATION = "chatbot"  # application_name, where the URL has none

# asyncpg takes these from the URL with libpq's meaning.
_PASSED = frozenset({
    "dbname", "host", "krbsrvname", "gsslib", "passfile", "password", "port", "service", "sslcert", "sslcrl", "sslkey",
    "sslmode", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslnegotiation", "sslpassword", "sslrootcert",
    "target_session_attrs", "user",
})  # fmt: skip

# Without effect here: this program's own timeouts find dead connections.
_IGNORED = frozenset({
    "gssdelegation", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts",
    "max_protocol_version", "min_protocol_version", "sslcompression", "sslkeylogfile", "sslsni", "tcp_user_timeout",
})  # fmt: skip

# Accepted with these values, which need nothing that is missing here.
_HARMLESS_VALUES = {
    "channel_binding": frozenset({"disable", "prefer", "require"}),  # `require` is mapped, see below
    "client_encoding": frozenset({"auto", "utf8", "utf-8", "unicode"}),
    "gssencmode": frozenset({"disable", "prefer"}),
    "replication": frozenset({"false", "off", "no", "0"}),
    "sslcertmode": frozenset({"allow", "disable"}),
}

# Parameters of libpq for what asyncpg cannot do. Refused, because ignoring them would weaken what the URL demands.
_UNSUPPORTED = frozenset({
    "hostaddr", "oauth_client_id", "oauth_client_secret", "oauth_issuer", "oauth_scope", "require_auth", "requirepeer",
    "scram_client_key", "scram_server_key", "servicefile", "sslcrldir",
})  # fmt: skip

_MAPPED = frozenset({"application_name", "connect_timeout", "fallback_application_name", "options", "ssl"})
_ENCRYPTED = ("require", "verify-ca", "verify-full")


class ConnectionTarget(Struct, frozen=True):
    """How to connect. `dsns` are for asyncpg, one for each host; `settings` are the server's, set once connected, as a
    pooler refuses them at startup; `options` is what libpq's `options` holds besides settings, which some hosts read at
    startup. `has_system_roots`: the server's certificate is checked against the system's authorities.
    """

    dsns: tuple[str, ...]
    settings: dict[str, str]
    application_name: str = APPLICATION
    options: str = ""
    connect_timeout_s: float = CONNECT_S
    has_system_roots: bool = False
    has_target: bool = False  # the URL says which of its servers it wants


def parse_postgres_url(url: str) -> ConnectionTarget:
    """Raises LogUnusable, which may name a parameter, but never a value."""
    address, _, query = url.partition("?")
    if "@" in query and "@" not in address:
        raise malformed()  # a `?` in the password: what follows is not a list of parameters
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError:
        raise malformed() from None
    _check(given)
    passed = {name: value for name, value in given.items() if name in _PASSED}
    known = _PASSED | _IGNORED | _HARMLESS_VALUES.keys() | _MAPPED
    settings = {name: value for name, value in given.items() if name not in known}
    of_options, options = _split_options(given.get("options", ""))
    has_system_roots = _map_tls(given, passed)
    return ConnectionTarget(
        dsns=tuple(_dsn(*one) for one in _split_hosts(address, passed)),
        settings=of_options | settings,
        application_name=given.get("application_name") or given.get("fallback_application_name") or APPLICATION,
        options=options,
        connect_timeout_s=_connect_timeout_s(given.get("connect_timeout", "")),
        has_system_roots=has_system_roots,
        has_target="target_session_attrs" in passed,
    )


def _dsn(address: str, parameters: dict[str, str]) -> str:
    return f"{address}?{urlencode(parameters, quote_via=quote)}" if parameters else address


def _split_hosts(address: str, passed: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Address and parameters for each host that the URL names; as they are where asyncpg has to compare the hosts.

    asyncpg has one timeout for all hosts: behind one that has vanished it would never try another.
    """
    if passed.get("target_session_attrs") == "prefer-standby":
        return [(address, passed)]
    scheme, separator, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    login, at, hosts = place.rpartition("@")
    if hosts:
        return [(f"{scheme}{separator}{login}{at}{host}{slash}{path}", passed) for host in hosts.split(",")]
    names, ports = passed.get("host", "").split(","), passed.get("port", "").split(",")
    if len(ports) not in (1, len(names)):
        return [(address, passed)]  # asyncpg refuses it
    ports *= len(names) if len(ports) == 1 else 1
    given = [{"host": name, "port": port} for name, port in zip(names, ports, strict=True)]
    return [(address, passed | {name: value for name, value in one.items() if value}) for one in given]


def malformed() -> LogUnusable:
    """The error for a URL that asyncpg rejects. Without a cause, which might quote the password."""
    return LogUnusable("the URL cannot be understood", remedy=Remedy.URL_FORM)


def _wrong(problem: str) -> LogUnusable:
    return LogUnusable(problem, remedy=Remedy.URL_PARAMETER)


def _check(given: dict[str, str]) -> None:
    for name, value in given.items():
        if name in _UNSUPPORTED:
            raise _wrong(f"the parameter {name} is not supported here: leave it out")
        if name in _HARMLESS_VALUES and value.lower() not in _HARMLESS_VALUES[name]:
            allowed = ", ".join(sorted(_HARMLESS_VALUES[name]))
            raise _wrong(f"the parameter {name} is supported with {allowed} only")


def _map_tls(given: dict[str, str], passed: dict[str, str]) -> bool:
    """Replace those of `passed` that asyncpg expects in another form. Returns whether to use the system's authorities.

    asyncpg has no channel binding: a URL that requires it requires at least an encrypted connection.
    """
    is_encrypted = given.get("ssl", "").lower() in ("true", "1", "require") or given.get("channel_binding") == "require"
    if is_encrypted and passed.get("sslmode") not in _ENCRYPTED:
        passed["sslmode"] = "require"
    if passed.get("sslrootcert") != "system":
        return False
    if given.get("sslmode", "verify-full") != "verify-full":
        raise _wrong("sslrootcert=system needs sslmode=verify-full")
    del passed["sslrootcert"]
    passed.pop("sslmode", None)
    return True


def _split_options(text: str) -> tuple[dict[str, str], str]:
    """The settings in libpq's `options` (`-c name=value`, `--name=value`), and the rest of it."""
    try:
        words = shlex.split(text)
    except ValueError:
        raise _wrong("the parameter options cannot be understood") from None
    settings: dict[str, str] = {}
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word = f"-c{words.pop(0)}"
        name, found, value = word.removeprefix("--" if word.startswith("--") else "-c").partition("=")
        if found and word.startswith(("-c", "--")):
            settings[name.replace("-", "_")] = value
        else:
            rest.append(word)
    return settings, " ".join(rest)


def _connect_timeout_s(text: str) -> float:
    if not text:
        return CONNECT_S
    try:
        seconds = int(text)
    except ValueError:
        raise _wrong("the parameter connect_timeout is a number of seconds") from None
    return min(float(seconds), CONNECT_MAX_S) if seconds > 0 else CONNECT_MAX_S
