"""Replies that wait for a server are served in order, and their owners take turns."""

from chatbot.llm.provider import LlmUnavailable
from chatbot.llm.servers.waiting_replies import WaitingReplies, WaitingReply


class Servers:
    """Grants a free slot of the wanted model; raises for a model that nobody has any more."""

    def __init__(self, **free: int) -> None:
        self.free = free

    def grant(self, model: str) -> str | None:
        if model not in self.free:
            raise LlmUnavailable
        if not self.free[model]:
            return None
        self.free[model] -= 1
        return model


def served(*replies: WaitingReply[str, str]) -> list[bool]:
    return [reply.granted.done() for reply in replies]


async def test_owners_take_turns() -> None:
    waiting: WaitingReplies[str, str] = WaitingReplies()
    many = [waiting.add("m", "busy") for _ in range(100)]
    one = waiting.add("m", "other")
    waiting.serve(Servers(m=2).grant)
    assert served(*many[:2], one) == [True, False, True]
    waiting.serve(Servers(m=1).grant)
    assert served(*many[:3]) == [True, True, False]
    assert len(waiting) == 98


async def test_who_waits_for_a_busy_server_does_not_hold_up_those_behind() -> None:
    waiting: WaitingReplies[str, str] = WaitingReplies()
    replies = [waiting.add("busy", "a"), waiting.add("free", "a"), waiting.add("busy", "b"), waiting.add("free", "b")]
    waiting.serve(Servers(busy=0, free=5).grant)
    assert served(*replies) == [False, True, False, True]


async def test_who_waits_for_a_server_that_is_gone_gets_the_error() -> None:
    waiting: WaitingReplies[str, str] = WaitingReplies()
    gone, stays = waiting.add("gone", "a"), waiting.add("busy", "a")
    waiting.serve(Servers(busy=0).grant)
    assert isinstance(gone.granted.exception(), LlmUnavailable)
    assert not stays.granted.done()
    waiting.remove(stays)
    assert len(waiting) == 0
