"""Cosignatures (https://c2sp.org/tlog-cosignature, Ed25519): a witness has seen a checkpoint, and checked
that the log has only grown since the one before.
"""

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


def witness_line(answer: str, verifier: str) -> str:
    """The line with the cosignature of the witness of the public key `verifier`, in its answer. Any other line is left
    out: anchors that others read must not grow by what a witness sends. Raises InvalidCheckpoint.
    """
    name, key_id, _ = read_verifier(verifier, COSIGNATURE)
    return signature_line(name, key_id, find_signature(answer, name, key_id))


def _message(body: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{body}".encode()
