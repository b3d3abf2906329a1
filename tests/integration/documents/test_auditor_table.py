"""The questions of an auditor: each request in the table is answered to a key that has the scope audit and no other."""

import re
from pathlib import Path
from urllib.parse import quote

from chatbot.keys.key_state import AddKey
from chatbot.keys.scopes import AUDIT
from events.integrity.log_identity import log_identity
from events.integrity.merkle_tree import MerkleTree
from events.integrity.signed_checkpoint import LogCheckpoint, make_key, sign
from events.record import Metadata
from tests.support.documents import section
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

SECRET = "a-secret-of-minas-own"


def requests_in_table() -> list[tuple[str, str]]:
    """The question of each row, and the path in its last column."""
    rows = re.findall(r"^\| (.*?) \| .* \| `GET (.*?)` \|$", section("For auditors", "chatbot/cli/README.md"), re.M)
    assert len(rows) >= 10
    return rows


async def test_each_request_in_the_table_is_answered_to_a_key_with_the_scope_audit(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS=f"mina:{SECRET}") as service:
        _, eve = await service.services.keys.change(AddKey("eve", (AUDIT,)), Metadata())
        created = await service.client.post("/api/sessions", headers={"X-API-Key": SECRET})
        session_id, checkpoint = created.json()["session_id"], await make_checkpoint(service)
        refused = {}
        for question, path in requests_in_table():
            asked = path.replace("{id}", session_id).replace("=ID", f"={session_id}")
            asked = asked.replace("=CHECKPOINT", f"={quote(checkpoint)}").replace("as_of=2026", "as_of=2999")
            answer = await service.client.get(asked, headers={"X-API-Key": eve})
            if answer.status_code != 200:
                refused[question] = answer.text
        assert refused == {}


async def make_checkpoint(service: Running) -> str:
    """A signed checkpoint of the whole log."""
    log, tree = service.services.log, MerkleTree()
    for row in await log.rows(limit=1000):
        tree.add(row.digest)
    head, origin = log.head(), await log_identity(log)
    statement = LogCheckpoint(origin, head.position, tree.close()[0], head.digest, "2026-01-31T09:30:00Z")
    return sign(statement, make_key("test")[0])
