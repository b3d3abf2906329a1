"""What uses a key that has ended is told; and a stream of keys that makes no sense opens nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.keys import key_registry
from chatbot.keys.key_registry import KeyRegistry
from chatbot.keys.key_state import AddKey, RevokeKey, RotateKey
from chatbot.keys.principal import EVERYONE, Principal
from chatbot.runtime.background_tasks import run_in_background
from events.catalogue import Event, KeyAdded, KeyRevoked
from events.errors import LogUnusable
from events.record import Metadata
from tests.support.log.memory_log import MemoryLog
from tests.support.log.sample_events import posted

HOUR_US = 3_600_000_000


@pytest.fixture
def now() -> list[int]:
    return [10**15]


@pytest.fixture
async def keys(now: list[int], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KeyRegistry]:
    monkeypatch.setattr(key_registry, "VALIDITY_CHECK_S", 0.0)
    registry = KeyRegistry(AuthSettings(), MemoryLog(), lambda: now[0])
    async with run_in_background(registry.end_uses(), "uses"):
        yield registry


class Use:
    """Counts how often it was told to end."""

    def __init__(self) -> None:
        self.told = 0

    def end(self) -> None:
        self.told += 1


@asynccontextmanager
async def used(keys: KeyRegistry, principal: Principal | None) -> AsyncIterator[Use]:
    assert principal is not None
    use = Use()
    keys.begin_use(principal, use.end)
    await settled()
    assert not use.told
    yield use
    keys.end_use(principal, use.end)
    assert principal not in keys._uses


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_use_that_begins_after_its_key_has_ended_is_told(
    keys: KeyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_registry, "VALIDITY_CHECK_S", 60.0)
    await keys.change(AddKey("root", ("admin",)), Metadata())
    await settled()
    use = Use()
    keys.begin_use(EVERYONE, use.end)
    await settled()
    assert use.told


async def test_the_first_key_ends_what_everyone_uses(keys: KeyRegistry) -> None:
    async with used(keys, EVERYONE) as use:
        await keys.change(AddKey("root", ("admin",)), Metadata())
        await settled()
        assert use.told


async def test_a_revoked_or_expired_key_ends_its_uses_and_no_others(keys: KeyRegistry, now: list[int]) -> None:
    _, secret = await keys.change(AddKey("app", ("chat",)), Metadata())
    _, other = await keys.change(AddKey("guest", ("chat",), now[0] + HOUR_US), Metadata())
    async with used(keys, keys.find(other)) as untouched:
        async with used(keys, keys.find(secret)) as use:
            await keys.change(RevokeKey("app"), Metadata())
            await settled()
            assert use.told
        assert not untouched.told
        now[0] += HOUR_US
        await settled()
        assert untouched.told


async def test_a_rotation_ends_uses_of_the_earlier_secret_when_its_overlap_ends(
    keys: KeyRegistry, now: list[int]
) -> None:
    _, secret = await keys.change(AddKey("app", ("chat",)), Metadata())
    async with used(keys, keys.find(secret)) as use:
        await keys.change(RotateKey("app", overlap_s=3600), Metadata())
        await settled()
        assert not use.told
        now[0] += HOUR_US
        await settled()
        assert use.told


async def test_other_scopes_end_what_was_begun_with_the_former_ones(keys: KeyRegistry) -> None:
    _, secret = await keys.change(AddKey("app", ("chat", "audit")), Metadata())
    async with used(keys, keys.find(secret)) as use:
        await keys.change(RotateKey("app", scopes=("chat",)), Metadata())
        await settled()
        assert use.told


@pytest.mark.parametrize(
    "event", [KeyRevoked("nobody"), posted("a message"), KeyAdded("other", "no hash", "cb_", ("chat",))]
)
async def test_a_stream_that_makes_no_sense_is_refused_and_changes_nothing(keys: KeyRegistry, event: Event) -> None:
    _, secret = await keys.change(AddKey("app", ("chat",)), Metadata())
    log = keys._log
    assert isinstance(log, MemoryLog)
    log.record("keys", event)
    with pytest.raises(LogUnusable):
        await keys.refresh()
    assert keys.find(secret) is not None
