"""Replies that wait for a server are served in order, and their owners take turns."""

from chatbot.llm.provider import LlmUnavailable
from chatbot.llm.servers.waiting_replies import WaitingReplies, WaitingReply


class Model(str):
    """The name of a model, which is all that a reply needs."""

    __slots__ = ()

    @property
    def kind(self) -> str:
        return str(self)


class Servers:
    """Grants a free slot of the model; raises for a model that nobody has any more."""

    def __init__(self, **free: int) -> None:
        self.free = free
        self.asked = 0

    def grant(self, model: Model) -> str | None:
        self.asked += 1
        if model not in self.free:
            raise LlmUnavailable
        if not self.free[model]:
            return None
        self.free[model] -= 1
        return model


def served(*replies: WaitingReply[Model, str]) -> list[bool]:
    return [reply.granted.done() for reply in replies]


async def test_owners_take_turns() -> None:
    waiting: WaitingReplies[Model, str] = WaitingReplies()
    many = [waiting.add(Model("m"), "busy") for _ in range(100)]
    one = waiting.add(Model("m"), "other")
    waiting.serve(Servers(m=2).grant)
    assert served(*many[:2], one) == [True, False, True]
    waiting.serve(Servers(m=1).grant)
    assert served(*many[:3]) == [True, True, False]
    assert len(waiting) == 98


async def test_who_waits_for_a_busy_server_does_not_hold_up_those_behind() -> None:
    waiting: WaitingReplies[Model, str] = WaitingReplies()
    replies = [
        waiting.add(Model("busy"), "a"),
        waiting.add(Model("free"), "a"),
        waiting.add(Model("busy"), "b"),
        waiting.add(Model("free"), "b"),
    ]
    waiting.serve(Servers(busy=0, free=5).grant)
    assert served(*replies) == [False, True, False, True]


async def test_who_waits_for_a_server_that_is_gone_gets_the_error() -> None:
    waiting: WaitingReplies[Model, str] = WaitingReplies()
    gone, stays = waiting.add(Model("gone"), "a"), waiting.add(Model("busy"), "a")
    waiting.serve(Servers(busy=0).grant)
    assert isinstance(gone.granted.exception(), LlmUnavailable)
    assert not stays.granted.done()
    waiting.remove(stays)
    assert len(waiting) == 0


async def test_thousands_that_wait_for_one_server_are_not_looked_at_one_by_one() -> None:
    waiting: WaitingReplies[Model, str] = WaitingReplies()
    for _ in range(1000):
        waiting.add(Model("busy"), "a")
    free, servers = waiting.add(Model("free"), "a"), Servers(busy=0, free=1)
    waiting.serve(servers.grant)
    assert free.granted.done()
    assert servers.asked == 2


async def test_a_reply_that_was_just_cancelled_takes_nothing() -> None:
    waiting: WaitingReplies[Model, str] = WaitingReplies()
    cancelled, other = waiting.add(Model("m"), "a"), waiting.add(Model("m"), "a")
    cancelled.granted.cancel()
    waiting.serve(Servers(m=1).grant)
    assert other.granted.done()
    waiting.remove(cancelled)
    assert len(waiting) == 0
