"""The chat page's files: its own (`page/`) and the libraries it uses (`vendor/`), with types and a common version.

The version is part of their addresses, so a browser may keep them: changed files have another address. It is one for
all, because modules import each other by relative paths.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

FOLDER = Path(__file__).parent
SERVED_FOLDERS = ("page", "vendor")
INDEX = "page/index.html"
ADDRESS = "{assets}"  # in the index: stands for the address of the page's own files
VERSION_CHARS = 16
CONTENT_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}  # files of other types, such as licences, are not served


class Asset(Struct, frozen=True):
    body: bytes
    content_type: str


class Assets(Struct, frozen=True):
    """`files` by path below this folder, such as page/app.js. `version`: the same for the same files everywhere."""

    version: str
    index: str
    files: Mapping[str, Asset]

    def index_for(self, prefix: str) -> bytes:
        """The page itself. `prefix`: the path under which a proxy publishes the service; with none, the addresses are
        relative, so that they also work under a path of which the service does not know.
        """
        root = f"{prefix}/" if prefix else ""
        return self.index.replace(ADDRESS, f"{root}assets/{self.version}/page").encode()


def read_assets(folder: Path = FOLDER) -> Assets:
    """Read all files. Raises OSError."""
    index = (folder / INDEX).read_bytes()
    digest = hashlib.sha256(index)
    files = {}
    for path in sorted(path for top in SERVED_FOLDERS for path in (folder / top).rglob("*")):
        content_type = CONTENT_TYPES.get(path.suffix)
        if content_type is None or not path.is_file():
            continue
        name, body = path.relative_to(folder).as_posix(), path.read_bytes()
        digest.update(f"{name}\n{len(body)}\n".encode() + body)
        files[name] = Asset(body, content_type)
    return Assets(digest.hexdigest()[:VERSION_CHARS], index.decode(), files)
