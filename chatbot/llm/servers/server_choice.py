"""Which of several servers a reply is asked from. Pure.

A session has a home by weighted rendezvous hashing: every process computes the same one, without a table, and a server
that is added or removed moves no other sessions than its own (Thaler and Ravishankar 1998; weights: Schindelhauer and
Schomaker 2005). So the server's cache of the conversation's beginning is used. A session leaves its home while that is
out of service, has failed in this reply or is at its cap. A session that is new is not sent to a home that is much
busier than the others. Then the server with the fewest outstanding requests for its weight is asked.
"""

import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar

# A home with more than this many times the load that the least busy server would have with one request more gets no new
# session (consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam 2018).
OVERLOAD_FACTOR = 1.25


class Candidate(Protocol):
    """A server that may serve a request."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def concurrency(self) -> int:
        """Its cap; 0: none."""
        ...

    @property
    def outstanding(self) -> int:
        """Requests that it is answering."""
        ...


AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


class Offer(Protocol):
    """What is known of a server's models."""

    @property
    def lists_models(self) -> bool:
        """Whether it has no others than it offers."""
        ...

    def offers(self, model: str) -> bool:
        """Whether it is known to have the model."""
        ...


AnyOffer = TypeVar("AnyOffer", bound=Offer)


def may_serve(servers: Iterable[AnyOffer], model: str) -> list[AnyOffer]:
    """The servers that offer `model`; if none is known to, those that may have others than they offer. '' is any."""
    known = list(servers)
    if not model:
        return known
    offering = [server for server in known if server.offers(model)]
    return offering or [server for server in known if not server.lists_models]


def has_room(server: Candidate) -> bool:
    return not server.concurrency or server.outstanding < server.concurrency


def load_with_one_more(server: Candidate) -> float:
    """Its requests for its weight, if it gets this one."""
    return (server.outstanding + 1) / server.weight


def is_overloaded(home: Candidate, least: Candidate) -> bool:
    """Whether `home` is much busier than `least`. An idle server never is, however little its weight."""
    return home.outstanding / home.weight > OVERLOAD_FACTOR * load_with_one_more(least)


def rank(server: Candidate, session: str) -> float:
    """Weighted rendezvous hashing: the server with the highest rank is the session's home."""
    digest = blake2b(f"{server.name}\0{session}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest) + 1) / (2**64 + 2)  # above 0 and below 1
    return -server.weight / math.log(uniform)


def home_of(servers: Iterable[AnyCandidate], session: str) -> AnyCandidate:
    return max(servers, key=lambda server: rank(server, session))


def choose(
    servers: Sequence[AnyCandidate], session: str, *, is_new: bool = False, stays_on: str = ""
) -> AnyCandidate | None:
    """One of `servers`, which are in service and may serve the request; None if all are at their caps.

    `session` '': none. `is_new`: no server has a cache of the conversation. `stays_on`: the name of the server that
    answered first, if that was not the session's home.
    """
    free = [server for server in servers if has_room(server)]
    if not free:
        return None
    least = min(free, key=lambda server: (load_with_one_more(server), -rank(server, session)))
    if not session:
        return least
    home = next((server for server in servers if server.name == stays_on), None) or home_of(servers, session)
    if not has_room(home) or (is_new and is_overloaded(home, least)):
        return least
    return home
