"""Cosignatures (https://c2sp.org/tlog-cosignature, Ed25519): a witness has seen a checkpoint, and checked
that the log has only grown since the one before.
"""

import re
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from events.integrity.signed_checkpoint import (
    COSIGNATURE,
    InvalidCheckpoint,
    find_signature,
    read_signer,
    read_verifier,
    signature_line,
    split_note,
)

_LINE = re.compile(r"\u2014 [^\s+]+ [A-Za-z0-9+/]+={0,2}")


def cosign(note: str, signer: str, time_s: int) -> str:
    """The line with the cosignature of `note` at `time_s` (Unix seconds). Raises InvalidCheckpoint for a bad key."""
    name, key_id, private = read_signer(signer, COSIGNATURE)
    signature = private.sign(_message(split_note(note)[0], time_s))
    return signature_line(name, key_id, struct.pack(">Q", time_s) + signature)


def check_cosignature(note: str, verifier: str) -> int:
    """When the witness of the public key `verifier` cosigned `note`, in Unix seconds. Raises InvalidCheckpoint."""
    name, key_id, public = read_verifier(verifier, COSIGNATURE)
    body, signatures = split_note(note)
    stamped = find_signature(signatures, name, key_id)
    if len(stamped) != 72:
        raise InvalidCheckpoint(f"the cosignature of {name} has another length than any")
    time_s = int(struct.unpack(">Q", stamped[:8])[0])
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(stamped[8:], _message(body, time_s))
    except InvalidSignature as error:
        raise InvalidCheckpoint(f"the cosignature of {name} does not fit: changed, or a forgery") from error
    return time_s


def signature_lines(text: str) -> str:
    """Those lines of an answer of a witness that are lines of a signed note."""
    return "".join(f"{line}\n" for line in text.split("\n") if _LINE.fullmatch(line))


def _message(body: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{body}".encode()
