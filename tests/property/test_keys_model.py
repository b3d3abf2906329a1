"""Whatever is done to the keys, exactly those secrets are valid that the words of the documents say, on every process
and after every restart.
"""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.keys.key_errors import KeyExists, KeyNotFound, KeyRejection, KeyRevokedAlready
from chatbot.keys.key_registry import TICKET_BUCKETS, KeyRegistry
from chatbot.keys.key_state import SECRETS_MAX, UNCHANGED, AddKey, KeyCommand, RevokeKey, RotateKey
from events.record import Metadata
from tests.support.log.memory_log import MemoryLog
from tests.support.nightly import scaled

SECOND_US = 1_000_000
NAMES = ("alice", "bob")
SCOPES = (("chat",), ("audit", "metrics"))
DEEDS = st.lists(
    st.tuples(
        st.sampled_from(("add", "add", "rotate", "rotate", "rotate", "revoke", "wait")),
        st.sampled_from(NAMES),
        st.sampled_from((0, 1, 5, 50)),  # seconds: of an overlap, or of waiting
        st.sampled_from((None, 3, 30)),  # seconds until a key expires
        st.sampled_from(SCOPES),
    ),
    max_size=30,
)


class Issued(Struct):
    """A secret that was given out, and until when it is valid."""

    name: str
    secret: str
    ends_us: float = float("inf")


class Model:
    """What should be valid, by a reckoning that knows no fold: each secret keeps the earliest end it was ever given."""

    def __init__(self) -> None:
        self.issued: list[Issued] = []
        self.expiry_us: dict[str, float] = {}
        self.scopes: dict[str, tuple[str, ...]] = {}
        self.revoked: set[str] = set()

    def issue(self, name: str, secret: str, overlap_end_us: float) -> None:
        earlier = [one for one in self.issued if one.name == name]
        for number, one in enumerate(reversed(earlier), start=1):
            is_one_too_many = number >= SECRETS_MAX
            one.ends_us = min(one.ends_us, float("-inf") if is_one_too_many else overlap_end_us)
        self.issued.append(Issued(name, secret))
        self.revoked.discard(name)

    def revoke(self, name: str) -> None:
        self.revoked.add(name)
        for one in self.issued:
            if one.name == name:
                one.ends_us = float("-inf")

    def valid(self, now_us: int) -> dict[str, str]:
        """Names by secret."""
        return {
            one.secret: one.name for one in self.issued if now_us < min(one.ends_us, self.expiry_us.get(one.name, 0))
        }

    def refusal(self, command: KeyCommand, now_us: int) -> type[KeyRejection] | None:
        known = command.name in self.expiry_us
        match command:
            case AddKey():
                return KeyExists if known else None
            case RotateKey():
                has_expired = known and command.expires_at_us == UNCHANGED and now_us >= self.expiry_us[command.name]
                return KeyNotFound if not known else KeyRejection if has_expired else None
            case RevokeKey():
                return KeyNotFound if not known else KeyRevokedAlready if command.name in self.revoked else None


def registry(log: MemoryLog, clock: list[int]) -> KeyRegistry:
    return KeyRegistry(AuthSettings(), log, lambda: clock[0])


async def act(deeds: list[tuple[str, str, int, int | None, tuple[str, ...]]]) -> None:
    log, model, clock = MemoryLog(), Model(), [10**15]
    processes = [registry(log, clock), registry(log, clock)]
    for number, (deed, name, seconds, expires_s, scopes) in enumerate(deeds):
        expires_us = None if expires_s is None else clock[0] + expires_s * SECOND_US
        command: KeyCommand
        match deed:
            case "wait":
                clock[0] += seconds * SECOND_US
                continue
            case "add":
                command = AddKey(name, scopes, expires_us)
            case "rotate":
                command = RotateKey(
                    name, seconds, scopes if seconds else (), UNCHANGED if expires_s == 3 else expires_us
                )
            case _:
                command = RevokeKey(name)
        refusal = model.refusal(command, clock[0])
        if refusal is not None:
            with pytest.raises(refusal):
                await processes[number % 2].change(command, Metadata())
            continue
        _, secret = await processes[number % 2].change(command, Metadata())
        match command:
            case AddKey():
                model.issue(name, secret, float("inf"))
                model.expiry_us[name] = float("inf") if expires_us is None else expires_us
                model.scopes[name] = scopes
            case RotateKey():
                model.issue(name, secret, clock[0] + seconds * SECOND_US)
                if command.expires_at_us != UNCHANGED:
                    model.expiry_us[name] = float("inf") if expires_us is None else expires_us
                model.scopes[name] = command.scopes or model.scopes[name]
            case RevokeKey():
                model.revoke(name)
        restarted = registry(log, clock)
        for process in (*processes, restarted):
            await process.refresh()
            check(process, model, clock[0])
        for seconds_later in (1, 4, 60):
            check(restarted, model, clock[0], later_us=seconds_later * SECOND_US, clock=clock)
    assert processes[0].recorded == processes[1].recorded
    assert processes[0].is_open == (not model.expiry_us)


def check(process: KeyRegistry, model: Model, now_us: int, later_us: int = 0, clock: list[int] | None = None) -> None:
    if clock is not None:
        clock[0] += later_us
    valid = model.valid(now_us + later_us)
    for one in model.issued:
        found = process.find(one.secret)
        assert (found and found.name) == valid.get(one.secret), (one, now_us + later_us)
        assert found is None or found.scopes == frozenset(model.scopes[one.name])
    assert sum(len(process.ticket_keys(bucket)) for bucket in range(TICKET_BUCKETS)) == len(valid)
    if clock is not None:
        clock[0] -= later_us


@given(DEEDS)
@settings(max_examples=scaled(60), deadline=None)
def test_any_history_of_keys_leaves_exactly_the_promised_secrets_valid(
    deeds: list[tuple[str, str, int, int | None, tuple[str, ...]]],
) -> None:
    asyncio.run(act(deeds))
