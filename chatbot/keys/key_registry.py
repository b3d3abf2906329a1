"""The key registry: which secrets are valid now, and whose they are.

The keys of CHATBOT_API_KEYS come from the settings, the others from the log's stream `keys`. The registry keeps both in
memory, so that authentication reads nothing, and follows the stream: it learns of a change that another process has
recorded within a second. While the log cannot be read the last known keys stay in force.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

import structlog
from msgspec import Struct

from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.keys.key_errors import KeyConfigured
from chatbot.keys.key_state import KeyCommand, KeyState, RecordedKeys, decide, fold
from chatbot.keys.principal import EVERYONE, Principal
from chatbot.keys.scopes import ADMIN, AUDIT, CONFIGURED_SCOPES
from chatbot.keys.secrets import hash_secret, make_secret, stored_form, ticket_key
from events.catalogue import KEYS, KeyEvent, KeyRevoked
from events.errors import LogError, LogUnavailable, LogUnusable, VersionConflict
from events.log import EventLog
from events.record import EventHeader, Metadata, RecordedEvent

READ_PAGE = 1000  # events of the stream read at once
READ_INTERVAL_S = 0.75  # between reads of a log that others write: a lost report of a change delays it by less than 1 s
READ_RETRY_S = 0.5  # after the log could not be read
VALIDITY_CHECK_S = 0.25  # between two checks whether keys of open streams have expired, if keys expire at all
TICKET_BUCKETS = 64  # 0 for configured keys, of which there are few; recorded ones share the others
APPEND_TRIES = 8  # lost races with other administrators before the caller is told to try again
_SHA256 = re.compile(r"[0-9a-f]{64}")


class _ValidSecret(Struct, frozen=True):
    """`until_us` None: as long as the key exists; else the secret is valid before that time."""

    principal: Principal
    until_us: int | None


class KeyRegistry:
    """Finds a key by the SHA-256 of its secret. How long that takes tells something of hashes, nothing of secrets."""

    def __init__(self, auth: AuthSettings, log: EventLog, clock: Callable[[], int]) -> None:
        self._auth = auth
        self._log = log
        self._clock = clock
        self._logger = structlog.get_logger("keys")
        self._configured = {hash_secret(secret): name for name, secret in auth.keys.items()}
        self._recorded = RecordedKeys()
        self._valid: dict[bytes, _ValidSecret] = {}
        self._buckets: dict[int, list[bytes]] = {}
        self._uses: dict[Principal, set[Callable[[], None]]] = {}
        self._can_read = True
        self._refresh_lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._replaced = asyncio.Event()  # a key in use may have ended, by a change
        self._has_ends = False  # whether a secret is valid until some time
        self._use(self._recorded)

    @property
    def is_open(self) -> bool:
        """Whether there is no authentication: no key is configured, and none was ever recorded."""
        return not self._configured and not self._recorded.version

    @property
    def is_current(self) -> bool:
        """Whether the log's keys could be read when they last had to be."""
        return self._can_read

    @property
    def configured(self) -> Collection[str]:
        """The names of the keys in the settings."""
        return self._auth.keys

    @property
    def recorded(self) -> Mapping[str, KeyState]:
        """The recorded keys by name, revoked and expired ones included, as this process knows them."""
        return self._recorded.keys

    def unknown_names(self) -> list[str]:
        """Names in auth.auditors, auth.admins and auth.front_ends that no key has: perhaps they are misspelt."""
        named = (*self._auth.auditors, *self._auth.admins, *self._auth.front_ends)
        return sorted(set(named) - set(self._auth.keys) - set(self.recorded))

    def find(self, secret: str) -> Principal | None:
        """The principal of a secret that is valid now."""
        return self.find_by_hash(hash_secret(secret))

    def find_by_hash(self, secret_sha256: bytes) -> Principal | None:
        found = self._valid.get(secret_sha256)
        if found is None or (found.until_us is not None and self._clock() >= found.until_us):
            return None
        return found.principal

    def ticket_bucket(self, secret_sha256: bytes) -> int:
        """The bucket of a secret, by which tickets are compared with few keys: 0 for those of the settings."""
        return 0 if secret_sha256 in self._configured else 1 + secret_sha256[0] % (TICKET_BUCKETS - 1)

    def ticket_keys(self, bucket: int) -> dict[bytes, bytes]:
        """The keys that sign tickets, of the secrets in the bucket that are valid now, by their SHA-256."""
        return {digest: ticket_key(digest) for digest in self._buckets.get(bucket, ()) if self.find_by_hash(digest)}

    def begin_use(self, principal: Principal, on_end: Callable[[], None]) -> None:
        """Call `on_end` within a second after the key has ended, or has other scopes, until `end_use`."""
        self._uses.setdefault(principal, set()).add(on_end)
        if not self._is_valid(principal):  # the key has ended since it was found
            self._replaced.set()

    def end_use(self, principal: Principal, on_end: Callable[[], None]) -> None:
        """Forget what `begin_use` was called with."""
        uses = self._uses.get(principal, set())
        uses.discard(on_end)
        if not uses:
            self._uses.pop(principal, None)

    async def change(self, command: KeyCommand, metadata: Metadata) -> tuple[KeyState, str]:
        """Record a change; returns the key, and its new secret, which is not kept (for a revocation: no secret).

        Raises KeyRejection, LogUnavailable (OutcomeUnknown: perhaps recorded).
        """
        if command.name in self._auth.keys:
            raise KeyConfigured(command.name)
        secret = make_secret()
        for _ in range(APPEND_TRIES):
            await self.refresh()
            event = decide(self._recorded, command, stored_form(secret), self._clock())
            with suppress(VersionConflict):
                await self._log.append(KEYS, self._recorded.version, [event], metadata)
                await self.refresh()
                return self._recorded.keys[command.name], secret
        raise LogUnavailable("others keep changing the keys; try again")

    async def refresh(self) -> None:
        """Read what the stream has become. Raises LogError."""
        async with self._refresh_lock:
            recorded = self._recorded
            while page := await self._log.read(KEYS, after=recorded.version, limit=READ_PAGE):
                try:
                    recorded = fold(recorded, [(_key_event(one), one.recorded_at_us) for one in page])
                except KeyError as error:
                    raise LogUnusable(f"the stream of the keys changes a key that it never added: {error}") from error
            if recorded is not self._recorded:
                self._use(recorded)

    async def follow(self) -> None:
        """Follow the stream until cancelled."""
        self._log.listen(self)
        while True:
            self._changed.clear()
            try:
                await self.refresh()
                self._can_read = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(READ_INTERVAL_S if self._log.is_shared else None):
                        await self._changed.wait()
            except LogError as error:
                if self._can_read:
                    self._logger.warning("keys.outdated", reason=str(error))
                self._can_read = False
                await asyncio.sleep(READ_RETRY_S)

    def on_appended(self, headers: Sequence[EventHeader]) -> None:
        """As AppendListener.on_appended."""
        if any(one.stream_id == KEYS for one in headers):
            self._changed.set()

    def on_held(self, stream_id: str, version: int) -> None:
        """As AppendListener.on_held: every process is told of the keys without a hold."""

    async def end_uses(self) -> None:
        """End the streams of keys that are no longer valid, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(VALIDITY_CHECK_S if self._has_ends else None):
                    await self._replaced.wait()
            self._replaced.clear()
            for principal in [one for one in self._uses if not self._is_valid(one)]:
                for on_end in list(self._uses.get(principal, ())):
                    on_end()

    def _is_valid(self, principal: Principal) -> bool:
        if principal is EVERYONE:
            return self.is_open
        return self.find_by_hash(principal.secret_sha256) == principal

    def _use(self, recorded: RecordedKeys) -> None:
        """Put the keys in force. A configured name is the settings' alone: recorded secrets of it do not count."""
        valid: dict[bytes, _ValidSecret] = {}
        self._recorded, self._valid = recorded, valid
        self._replaced.set()
        for digest, name in self._configured.items():
            valid[digest] = _ValidSecret(Principal(name, self.scopes_of(name), digest), None)
        for key in recorded.keys.values():
            if key.name in self._auth.keys:
                continue
            for secret in key.secrets:
                digest = bytes.fromhex(secret.sha256)
                ends = [one for one in (secret.until_us, key.expires_at_us) if one is not None]
                principal = Principal(key.name, self.scopes_of(key.name), digest)
                valid[digest] = _ValidSecret(principal, min(ends, default=None))
        self._has_ends = any(one.until_us is not None for one in valid.values())
        self._buckets = {}
        for digest in valid:
            self._buckets.setdefault(self.ticket_bucket(digest), []).append(digest)

    def scopes_of(self, name: str) -> frozenset[str]:
        """Those of the key and what the settings give to its name."""
        own = CONFIGURED_SCOPES if name in self._auth.keys else frozenset(self._recorded.keys[name].scopes)
        audit = {AUDIT} if name in self._auth.auditors else set()
        admin = {ADMIN} if name in self._auth.admins else set()
        return own | audit | admin


def _key_event(recorded: RecordedEvent) -> KeyEvent:
    """Raises LogUnusable: without one of its events the stream may say that a revoked key is valid."""
    event = recorded.event
    if not isinstance(event, KeyEvent):
        raise LogUnusable(f"event {recorded.position} of the log is in the stream of the keys, and is no key's")
    if not isinstance(event, KeyRevoked) and not _SHA256.fullmatch(event.secret_sha256):
        raise LogUnusable(f"event {recorded.position} of the log has no SHA-256 of a key's secret")
    return event
