"""An S3 server in this process (moto), and what an operator with its keys sees in a bucket."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import botocore.session
import httpx
from botocore.config import Config
from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tester",
    "AWS_DEFAULT_REGION": "us-east-1",
}
BUCKET = "audit"


class S3Server:
    """`client` goes to the server itself, whatever is between it and the code under test."""

    def __init__(self, port: int) -> None:
        self.port = port
        session = botocore.session.get_session()
        session.set_credentials(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
        self.client: Any = session.create_client(
            "s3", region_name="us-east-1", endpoint_url=self.url, config=Config(retries={"total_max_attempts": 1})
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def empty(self) -> None:
        """A bucket with nothing in it, whatever was locked."""
        httpx.post(f"{self.url}/moto-api/reset")
        self.client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)

    def objects(self) -> dict[str, bytes]:
        """All versions of all objects: an overwritten one would be seen."""
        listed = self.client.list_object_versions(Bucket=BUCKET).get("Versions", [])
        names = [one["Key"] for one in listed]
        assert len(set(names)) == len(names), "an object was overwritten"
        return {name: self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}


@contextmanager
def s3_server() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    running = S3Server(port)
    try:
        yield running
    finally:
        running.client.close()
        server.stop()
