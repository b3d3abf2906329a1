"""Anchors in an S3-compatible bucket, created with `If-None-Match: *`, and locked with Object Lock if asked for.

botocore is the library of AWS itself: it has every option of a request, and finds credentials where all tools of AWS
find them (environment, profile, role of the machine). It blocks, so each call runs in a thread.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from chatbot.anchors.anchor_target import ANCHORS_MAX, NOTE_MAX_BYTES, ORIGINS_MAX, TargetUnavailable
from chatbot.config.anchor_targets import InvalidTarget, S3Target
from chatbot.runtime.backoff import Backoff
from chatbot.runtime.throttle import batched

try:
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError as error:
    raise InvalidTarget("an S3 target needs the extra s3: pip install 'chatbot-backend[s3]'") from error

ATTEMPTS = 4  # of each request: a lost one, and a lost answer, are repeated
BACKOFF = Backoff(first_s=0.2, max_s=2.0)
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 10.0  # an attempt cannot be cancelled: the end of the service waits as long
READERS = 16  # objects read at the same time
LIST_PAGE = 1000  # names in an answer, S3's most
EXISTS = frozenset({"PreconditionFailed", "412"})
MISSING = frozenset({"NoSuchKey", "404", "NotFound"})


class S3Store:
    """Implements ObjectStore."""

    def __init__(self, target: S3Target) -> None:
        self._target = target
        self._client: Any = None
        self._prefix = f"{target.prefix}/" if target.prefix else ""
        self._readers = asyncio.Semaphore(READERS)

    @property
    def name(self) -> str:
        return f"s3://{self._target.bucket}/{self._target.prefix}".rstrip("/")

    async def create(self, name: str, content: bytes) -> bool:
        """As ObjectStore.create. Repeated after a lost answer, it finds its own object: the caller compares it."""
        arguments: dict[str, Any] = {"Body": content, "IfNoneMatch": "*", "ContentType": "text/plain; charset=utf-8"}
        if self._target.lock is not None:
            arguments["ObjectLockMode"] = self._target.lock.upper()
            arguments["ObjectLockRetainUntilDate"] = datetime.now(UTC) + timedelta(days=self._target.retain_days)
        answer = await self._call("put_object", EXISTS, Key=self._prefix + name, **arguments)
        return answer is not None

    async def read(self, name: str) -> bytes | None:
        """As ObjectStore.read."""
        wanted = f"bytes=0-{NOTE_MAX_BYTES - 1}"
        async with self._readers:
            answer = await self._call("get_object", MISSING, Key=self._prefix + name, Range=wanted)
        return None if answer is None else bytes(answer["content"])

    async def read_many(self, names: list[str]) -> list[bytes | None]:
        """As ObjectStore.read_many."""
        found: list[bytes | None] = []
        for some in batched(names, LIST_PAGE):
            found += await asyncio.gather(*map(self.read, some))
        return found

    async def names(self, origin: str) -> list[str]:
        """As ObjectStore.names. S3 lists in ascending order: the names of up to ANCHORS_MAX are 100 answers."""
        found, start = list[str](), ""
        while True:
            more = {"StartAfter": start} if start else {}
            answer = await self._list(f"{self._prefix}{origin}/", **more)
            page = [one["Key"] for one in answer.get("Contents", ())]
            found = [*found, *page][-ANCHORS_MAX:]
            if not answer.get("IsTruncated") or not page:
                return [key.removeprefix(self._prefix) for key in found]
            start = page[-1]

    async def origins(self) -> list[str]:
        """As AnchorTarget.origins."""
        outer = await self._prefixes(self._prefix)
        inner = [one for prefix in outer for one in await self._prefixes(prefix)]
        return [one.removeprefix(self._prefix).rstrip("/") for one in inner[:ORIGINS_MAX]]

    async def close(self) -> None:
        if self._client is not None:
            self._client.close()

    async def _prefixes(self, prefix: str) -> list[str]:
        answer = await self._list(prefix, Delimiter="/")
        return [one["Prefix"] for one in answer.get("CommonPrefixes", ())][:ORIGINS_MAX]

    async def _list(self, prefix: str, **arguments: str) -> dict[str, Any]:
        answer = await self._call("list_objects_v2", frozenset(), Prefix=prefix, MaxKeys=LIST_PAGE, **arguments)
        return answer or {}

    async def _call(self, operation: str, refusals: frozenset[str], **arguments: Any) -> dict[str, Any] | None:
        """The answer of S3; None for an error in `refusals`. Raises TargetUnavailable."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await asyncio.to_thread(self._request, operation, arguments)
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
                if code in refusals:
                    return None
                if attempt == ATTEMPTS or not (status >= 500 or status in (409, 429)):
                    raise TargetUnavailable(f"{operation}: {code or status}") from error
            except (BotoCoreError, OSError) as error:
                if attempt == ATTEMPTS or not _is_transient(error):
                    raise TargetUnavailable(f"{operation}: {type(error).__name__}") from error
            await asyncio.sleep(BACKOFF.delay_s(attempt))
        raise AssertionError  # the last attempt returns or raises

    def _request(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._client is None:
            self._client = _create_client(self._target)
        answer: dict[str, Any] = getattr(self._client, operation)(Bucket=self._target.bucket, **arguments)
        if "Body" in answer:
            with answer["Body"] as body:
                answer["content"] = body.read()
        return answer


def _create_client(target: S3Target) -> Any:
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": 1, "mode": "standard"},  # `_call` repeats, and can be cancelled in between
        max_pool_connections=READERS,
    )
    session = botocore.session.get_session()
    return session.create_client("s3", region_name=target.region, endpoint_url=target.endpoint, config=config)


def _is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed: not without credentials, a region or a bucket's name."""
    return isinstance(error, OSError) or type(error).__name__ in {
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "HTTPClientError",
        "IncompleteReadError",
        "ProxyConnectionError",
        "ReadTimeoutError",
        "ResponseStreamingError",
    }
