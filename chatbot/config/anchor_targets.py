"""Targets of anchors as text (a folder, `s3://bucket/prefix?...`, the URL of a witness), and logs of a witness."""

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from events.integrity.signed_checkpoint import COSIGNATURE, InvalidCheckpoint, read_verifier

LOCK_MODES = ("governance", "compliance")
S3_OPTIONS = frozenset({"endpoint", "region", "lock", "retain_days"})
RETAIN_DAYS_MAX = 36_500


class InvalidTarget(Exception):
    """The text is no target: the sentence says why."""


class FolderTarget(Struct, frozen=True):
    """A folder of the file system."""

    folder: Path


class S3Target(Struct, frozen=True):
    """A prefix in a bucket. With `lock`, S3 keeps each object for `retain_days` (Object Lock)."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    lock: str | None = None
    retain_days: int = 0


class WitnessUrl(Struct, frozen=True):
    """The prefix of a witness's addresses (c2sp.org/tlog-witness), and its public key if its signatures are checked."""

    url: str
    verifier: str | None = None


TargetUrl = FolderTarget | S3Target | WitnessUrl


def parse_witnessed(text: str) -> tuple[str, str]:
    """Name and public key of a log that is witnessed. Raises InvalidTarget."""
    origin, blank, verifier = text.strip().rpartition(" ")
    try:
        if not blank or not origin.strip():
            raise InvalidTarget("it is a log's name, a space and its public key")
        read_verifier(verifier)
    except InvalidCheckpoint as error:
        raise InvalidTarget(f"after the log's name comes its public key: {error}") from error
    return origin.strip(), verifier


def parse_target(text: str) -> TargetUrl:
    """Raises InvalidTarget."""
    scheme, found, _ = text.partition("://")
    if not text.strip():
        raise InvalidTarget("a target is a folder, s3://BUCKET/PREFIX or the URL of a witness; this is empty")
    if not found:
        return FolderTarget(Path(text))
    if scheme == "file":
        return FolderTarget(Path(text.removeprefix("file://")))
    if scheme == "s3":
        return _parse_s3(text)
    if scheme in ("http", "https"):
        return _parse_witness(text)
    raise InvalidTarget(f"{scheme}:// is no target: use a folder, s3:// or the https:// URL of a witness")


def _parse_s3(text: str) -> S3Target:
    parts = urlsplit(text)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - S3_OPTIONS)
    if not parts.netloc or unknown or "@" in parts.netloc:
        raise InvalidTarget(
            "it is s3://BUCKET/PREFIX, followed by ?endpoint=, region=, lock= and retain_days= as needed;"
            " credentials come from the environment"
        )
    lock, days = options.get("lock"), options.get("retain_days", "0")
    if lock is not None and lock not in LOCK_MODES:
        raise InvalidTarget(f"lock is one of {', '.join(LOCK_MODES)}")
    if not days.isdecimal() or int(days) > RETAIN_DAYS_MAX or (lock is not None) != (int(days) > 0):
        raise InvalidTarget(f"lock needs retain_days, a number up to {RETAIN_DAYS_MAX:,}, and retain_days needs lock")
    prefix = parts.path.strip("/")
    return S3Target(parts.netloc, prefix, options.get("endpoint"), options.get("region"), lock, int(days))


def _parse_witness(text: str) -> WitnessUrl:
    url, _, verifier = text.partition("#")
    parts = urlsplit(url)
    if not parts.hostname or parts.username or parts.query:
        raise InvalidTarget("a witness is https://HOST/PREFIX, followed by # and its public key as needed")
    try:
        if verifier:
            read_verifier(verifier, COSIGNATURE)
    except InvalidCheckpoint as error:
        raise InvalidTarget(f"after # comes the witness's public key: {error}") from error
    return WitnessUrl(url.rstrip("/"), verifier or None)
