"""Signed checkpoints of the log (signed tree heads). Keep them out of reach of everybody who can write the log.

The text is a checkpoint (https://c2sp.org/tlog-checkpoint) in a signed note (https://c2sp.org/signed-note), the format
of transparency logs: origin, number of events, root of the Merkle tree (events/integrity/merkle_tree.py),
then two lines of our own, the digest of the last event and the time. Signatures are Ed25519 (RFC 8032).
"""

import base64
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

ED25519 = b"\x01"  # the algorithm's byte in a signed note
COSIGNATURE = b"\x04"  # that of a witness's signatures (events/integrity/cosignature.py), which use other keys
KINDS = {ED25519: "log's signer", COSIGNATURE: "witness"}
SIGNATURE = "\u2014 "  # begins a line with a signature
BOM = "\ufeff"  # byte order mark, which some editors write before a text
_NAME = re.compile(r"[^\s+]{1,128}")
_BODY = re.compile(
    r"(?P<origin>[^\n]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n"
    r"digest (?P<digest>[0-9a-f]{64})\ntime (?P<time>[0-9TZ:.+-]+)\n"
)
_TREE_HEAD = re.compile(  # lines after the third may be anything
    r"(?P<origin>[^\n]+)\n(?P<size>0|[1-9][0-9]{0,17})\n(?P<root>[A-Za-z0-9+/]{43}=)\n(?:[^\n]+\n)*"
)


class InvalidCheckpoint(Exception):
    """The text is not a checkpoint or not a key, or the signature is not of this key: the message says which."""


class TreeHead(Struct, frozen=True):
    """What any tlog-checkpoint states: the log `origin` has `size` leaves, and its tree the root `root`."""

    origin: str
    size: int
    root: bytes


class LogCheckpoint(Struct, frozen=True):
    """The log had `size` events, the last with `digest`, and the tree over them the root `root`, at `time`."""

    origin: str
    size: int
    root: bytes
    digest: bytes
    time: str

    def body(self) -> str:
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\ndigest {self.digest.hex()}\ntime {self.time}\n"


def make_key(name: str, algorithm: bytes = ED25519) -> tuple[str, str]:
    """A new key pair of the signer `name`: secret key, public key. Raises InvalidCheckpoint for a bad name."""
    if not _NAME.fullmatch(name):
        raise InvalidCheckpoint("a key's name has 1 to 128 characters, without spaces and +")
    private = Ed25519PrivateKey.generate()
    seed, public = private.private_bytes_raw(), private.public_key().public_bytes_raw()
    key_id = _key_id(name, public, algorithm).hex()
    return f"PRIVATE+KEY+{name}+{key_id}+{_b64(algorithm + seed)}", f"{name}+{key_id}+{_b64(algorithm + public)}"


def sign(checkpoint: LogCheckpoint, signer: str) -> str:
    """The checkpoint as a signed note. Raises InvalidCheckpoint if `signer` is not a secret key."""
    name, key_id, private = read_signer(signer)
    body = checkpoint.body()
    return f"{body}\n{signature_line(name, key_id, private.sign(body.encode()))}"


def read_signer(text: str, algorithm: bytes = ED25519) -> tuple[str, bytes, Ed25519PrivateKey]:
    """The signer's name, the key id and the secret key in `text`. Raises InvalidCheckpoint."""
    found = re.fullmatch(r"PRIVATE\+KEY\+([^\s+]+)\+([0-9a-f]{8})\+(\S+)", text.strip())
    if not found:
        raise InvalidCheckpoint("this is no signer's key as `keygen` writes it")
    private = Ed25519PrivateKey.from_private_bytes(_key_bytes(found[3], algorithm))
    key_id = _key_id(found[1], private.public_key().public_bytes_raw(), algorithm)
    if key_id.hex() != found[2]:
        raise InvalidCheckpoint("the signer's key is damaged: its parts do not belong together")
    return found[1], key_id, private


def public_key_of(signer: str) -> str:
    """The public key that belongs to a secret key. Raises InvalidCheckpoint."""
    name, key_id, private = read_signer(signer)
    return f"{name}+{key_id.hex()}+{_b64(ED25519 + private.public_key().public_bytes_raw())}"


def signature_line(name: str, key_id: bytes, signature: bytes) -> str:
    """A line of a signed note, with its line end."""
    return f"{SIGNATURE}{name} {_b64(key_id + signature)}\n"


def read_all(text: str, verifier: str) -> list[LogCheckpoint]:
    """The checkpoints of all notes in `text`. Raises InvalidCheckpoint if one of them is not signed with the secret key
    that belongs to the public key `verifier`.
    """
    found = split_notes(text)
    checkpoints = []
    for number, note in enumerate(found, start=1):
        try:
            checkpoints.append(read(note, verifier))
        except InvalidCheckpoint as error:
            if len(found) == 1:
                raise
            raise InvalidCheckpoint(f"note {number} of {len(found)}: {error}") from error
    return checkpoints


def split_notes(text: str) -> list[str]:
    """The notes in `text`, with or without blank lines between them. Any other text counts as a note, which `read`
    refuses.
    """
    notes: list[str] = []
    body: list[str] = []
    signatures: list[str] | None = None  # None: in the body
    for line in text.split("\n"):  # not splitlines(), as in `find_signature`
        if signatures is not None and not line.startswith(SIGNATURE):
            notes.append("\n".join([*body, "", *signatures, ""]))
            body, signatures = [], None
        if signatures is not None:
            signatures.append(line)
        elif line or body:
            if line:
                body.append(line if body else line.removeprefix(BOM))
            else:
                signatures = []
    if body:
        rest = [] if signatures is None else ["", *signatures]
        notes.append("\n".join([*body, *rest, ""]))
    return notes or [text]


def read(note: str, verifier: str) -> LogCheckpoint:
    """The checkpoint of `note`, signed with the secret key that belongs to `verifier`.

    Raises InvalidCheckpoint, also for more than one note.
    """
    check_signature(note, verifier)
    return parse(note.removeprefix(BOM))


def check_signature(note: str, verifier: str) -> None:
    """Raises InvalidCheckpoint unless `note` is one note, signed with the secret key that belongs to `verifier`."""
    if len(split_notes(note)) != 1:
        raise InvalidCheckpoint("there is more than one note: only one can be meant here")
    name, key_id, public = read_verifier(verifier)
    body, signatures = split_note(note.removeprefix(BOM))
    signature = find_signature(signatures, name, key_id)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, body.encode())
    except InvalidSignature as error:
        raise InvalidCheckpoint(f"the signature of {name} does not fit: changed, or a forgery") from error


def split_note(note: str) -> tuple[str, str]:
    """The text that is signed, and the lines with signatures. Raises InvalidCheckpoint."""
    body, blank, signatures = note.partition("\n\n")
    if not blank:
        raise InvalidCheckpoint("this is no signed note: it has no signature")
    return body + "\n", signatures


def parse_tree_head(note: str) -> TreeHead:
    """The tree head of any tlog-checkpoint; its signature is not checked. Raises InvalidCheckpoint."""
    found = _TREE_HEAD.fullmatch(note.partition("\n\n")[0] + "\n")
    if not found:
        raise InvalidCheckpoint("this is no checkpoint")
    return TreeHead(found["origin"], int(found["size"]), base64.b64decode(found["root"]))


def parse(note: str) -> LogCheckpoint:
    """The checkpoint of `note`; its signature is not checked. Raises InvalidCheckpoint."""
    found = _BODY.fullmatch(note.partition("\n\n")[0] + "\n")
    if not found:
        raise InvalidCheckpoint("this is no checkpoint of such a log")
    root = base64.b64decode(found["root"])
    return LogCheckpoint(found["origin"], int(found["size"]), root, bytes.fromhex(found["digest"]), found["time"])


def read_verifier(text: str, algorithm: bytes = ED25519) -> tuple[str, bytes, bytes]:
    """The signer's name, the key id and the public key in `text`. Raises InvalidCheckpoint."""
    found = re.fullmatch(r"([^\s+]+)\+([0-9a-f]{8})\+(\S+)", text.strip())
    if not found:
        raise InvalidCheckpoint("this is no verifier's key as `keygen` writes it")
    public = _key_bytes(found[3], algorithm)
    key_id = _key_id(found[1], public, algorithm)
    if key_id.hex() != found[2]:
        raise InvalidCheckpoint("the verifier's key is damaged: its parts do not belong together")
    return found[1], key_id, public


def find_signature(lines: str, name: str, key_id: bytes) -> bytes:
    """The signature by this key in the lines of a note. Raises InvalidCheckpoint if there is none."""
    for line in lines.split("\n"):  # not splitlines(): a note with other line ends has been changed
        found = re.fullmatch(r"\u2014 ([^\s+]+) (\S+)", line)
        if found and found[1] == name:
            try:
                raw = base64.b64decode(found[2], validate=True)
            except ValueError:  # binascii.Error, or not ASCII
                continue
            if (
                raw[:4] == key_id and _b64(raw) == found[2]
            ):  # its last bits have four encodings: only the canonical one is accepted
                return raw[4:]
    raise InvalidCheckpoint(f"the note is not signed by {name}")


def _key_id(name: str, public: bytes, algorithm: bytes) -> bytes:
    """The key id of a signed note: the first 4 bytes of SHA-256(name || newline || algorithm || public key)."""
    return hashlib.sha256(name.encode() + b"\n" + algorithm + public).digest()[:4]


def _key_bytes(text: str, algorithm: bytes) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error, or not ASCII
        raw = b""
    if len(raw) != 33 or raw[:1] not in KINDS:
        raise InvalidCheckpoint("the key is damaged, or not one of Ed25519")
    if raw[:1] != algorithm:
        raise InvalidCheckpoint(f"this is the key of a {KINDS[raw[:1]]}, not of a {KINDS[algorithm]}")
    return raw[1:]


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
