"""What nodes say to each other about the projections, by NOTIFY, as JSON. What is lost is repeated."""

import msgspec
from msgspec import Struct

SAID_MAX_BYTES = 7_000  # the server takes 8,000
_NODE_CHARS_MAX = 64


class Ask(Struct, frozen=True, array_like=True):
    """To the node that folds: `node` waits for `position` (0: for none), has readers of lists, or had trouble with the
    tables: found them damaged, or ("") could not read them.
    """

    node: str
    position: int
    has_list_readers: bool = False
    trouble: str | None = None


class Reached(Struct, frozen=True, array_like=True):
    """To a node that asked: what is folded, and whose lists have changed (None: anybody's may have)."""

    position: int
    owners: tuple[str, ...] | None = ()


_encode = msgspec.json.Encoder().encode
_asks = msgspec.json.Decoder(Ask)
_reached = msgspec.json.Decoder(Reached)


def encode(said: Ask | Reached) -> str:
    """For NOTIFY. Owners that are too many are left out, so that any may have changed."""
    text = _encode(said)
    if len(text) > SAID_MAX_BYTES and isinstance(said, Reached):
        text = _encode(Reached(said.position, None))
    return text.decode()


def decode_ask(text: str) -> Ask | None:
    """None for what is none: anybody may notify."""
    try:
        ask = _asks.decode(text)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    return ask if ask.node.isalnum() and len(ask.node) <= _NODE_CHARS_MAX else None


def decode_reached(text: str) -> Reached | None:
    """As decode_ask."""
    try:
        return _reached.decode(text)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
