"""After a drill: wait until nothing is open, say a last word to each reader, and collect what every node says."""

import asyncio
import json
import time
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from typing import Any

import httpx
import msgspec

from tests.drills.drill_record import DrillRecord, LoggedEvent, NodeView, Operation
from tests.drills.environment.drill_cluster import Cluster
from tests.drills.environment.drill_nodes import Node
from tests.drills.environment.network_namespaces import ProgramFailed
from tests.drills.load.client_requests import ROOT_SECRET, Targets, ask, new_client
from tests.drills.load.drill_readers import DrillReader
from tests.drills.rules.log_index import LogIndex

QUIET_TIMEOUT_S = 40.0  # from healing to the end of the last reply
LAST_MESSAGE_TIMEOUT_S = 30.0
PAGE = 5000


async def wait_until_quiet(node: Node, record: DrillRecord, *, is_last: bool = False) -> None:
    """No reply is owed any more, as the log says; or the time is up, and the checker will say so. `is_last`: no session
    is to expire either, so that nothing happens any more. A request expires each as soon as it is due: the service's
    own timer may be a minute late for one whose reply has just ended.
    """
    until_s = time.monotonic() + QUIET_TIMEOUT_S
    async with new_client(ROOT_SECRET) as auditor, new_client() as http:
        while True:
            with suppress(httpx.HTTPError):
                record.log += await _log(auditor, node, len(record.log))
                index = LogIndex(record.log)
                expiring = _expiring(index) if is_last else []
                if _is_quiet(index) and not expiring:
                    return
                for session_id in expiring:  # a change of nothing is no access
                    await http.patch(f"{node.url}/api/sessions/{session_id}", json={"pinned": False})
            if time.monotonic() > until_s:
                return
            await asyncio.sleep(0.3)


def _is_quiet(index: LogIndex) -> bool:
    """No reply is owed, and no deletion has begun that is not complete: it copies texts into forks first."""
    for session_id, events in index.sessions.items():
        ends = [one for one in events if one.type == "session_expired" and (one.data or {}).get("erase_reason")]
        if ends and not index.is_deleted(session_id):
            return False
    return all(
        len(reply.ended) >= len(reply.owed)
        for reply in index.replies.values()
        if not index.is_deleted(reply.session_id)
    )


def _expiring(index: LogIndex) -> list[str]:
    """The sessions that are left and have a short timeout."""
    timeouts = {session_id: (events[0].data or {}).get("timeout_s", 0) for session_id, events in index.sessions.items()}
    return [one for one, timeout_s in timeouts.items() if 0 < timeout_s <= QUIET_TIMEOUT_S and not index.is_gone(one)]


async def post_last_messages(targets: Targets, readers: list[DrillReader], record: DrillRecord) -> None:
    """A change in each session that is followed: who has heard of it has heard all. Complains of who has not."""
    until_s = time.monotonic() + LAST_MESSAGE_TIMEOUT_S
    for reader in readers:
        reader.stays_connected = True
    versions: dict[str, int] = {}
    async with new_client() as http:
        for session_id in {reader.session_id for reader in readers if reader.session_id}:
            versions[session_id] = await _post_last_message(http, targets, session_id, record)
    while time.monotonic() < until_s:
        late = [reader for reader in readers if reader.version < versions.get(reader.session_id, 0)]
        if not late:
            return
        await asyncio.sleep(0.1)
    for reader in late:
        what = f"{reader.name} is at {reader.cursor} of {reader.session_id}, which is at {versions[reader.session_id]}"
        record.complaints.append(f"{LAST_MESSAGE_TIMEOUT_S:g} s after all was well {what}")


async def _post_last_message(http: httpx.AsyncClient, targets: Targets, session_id: str, record: DrillRecord) -> int:
    """The version that it is at now; 0 where the session is gone."""
    for attempt in range(20):
        title = f"the last word {attempt} in {session_id}"
        target = list(targets.urls)[attempt % len(targets.urls)]
        said = Operation(
            client="the last", kind="patch", target=target, invoked_s=time.time(), session_id=session_id, sent=title
        )
        record.operations.append(said)
        told = await ask(http, targets, said, "PATCH", f"/api/sessions/{session_id}", {"title": title})
        if said.is_told:
            said.version = told["version"]
            return int(told["version"])
        if said.status == 404:
            return 0
        await asyncio.sleep(0.5)
    record.complaints.append(f"nothing can be recorded in {session_id} after all was healed")
    return 0


async def collect_node_views(parts: Cluster, record: DrillRecord, secrets: dict[str, str]) -> None:
    """The log, what each node says of each session and each secret, and the verdict of `run.py verify`."""
    for node in parts.nodes:
        for _ in range(node.workers):  # each time with a new connection, which may be another worker's
            record.seen.append(await _view(node, record, secrets))
    await _verify(parts, record)


async def _view(node: Node, record: DrillRecord, secrets: dict[str, str]) -> NodeView:
    """What the node says. The log of the first view is the record's from now on. Raises httpx.HTTPError."""
    async with new_client(ROOT_SECRET) as auditor, new_client() as http:
        log = await _log(auditor, node, 0)
        record.log = record.log if record.seen else log
        view = NodeView(node.name, sha256(msgspec.json.encode(log)).hexdigest(), {})
        for session_id in LogIndex(record.log).sessions:
            view.histories[session_id] = await _history(http, node, session_id)
        for name, secret in secrets.items():
            headers = {"Authorization": f"Bearer {secret}"}
            answer = await http.get(f"{node.url}/api/sessions?limit=1", headers=headers)
            view.keys[name] = answer.status_code
        return view


async def _log(http: httpx.AsyncClient, node: Node, after: int) -> list[LoggedEvent]:
    """What lies after that position, as the node reads it. Raises httpx.HTTPError."""
    found: list[LoggedEvent] = []
    while True:
        url = f"{node.url}/api/events?after={after + len(found)}&limit={PAGE}"
        answer = await http.get(url, headers={"Accept": "application/x-ndjson"})
        answer.raise_for_status()
        lines = [json.loads(line) for line in answer.text.split("\n") if line]
        found += [_logged(line) for line in lines]
        if len(lines) < PAGE:
            return found


def _logged(line: dict[str, Any]) -> LoggedEvent:
    names = ("position", "session_id", "version", "type", "data", "digest")
    recorded_s = datetime.fromisoformat(line["recorded_at"]).timestamp()
    return LoggedEvent(recorded_s=recorded_s, **{name: line[name] for name in names})


async def _history(http: httpx.AsyncClient, node: Node, session_id: str) -> Any:
    """The messages of the selected branch, with the version; None for a 404."""
    answer = await http.get(f"{node.url}/api/sessions/{session_id}/messages?limit=1000")
    return None if answer.status_code == 404 else answer.json()


async def _verify(parts: Cluster, record: DrillRecord) -> None:
    try:
        await parts.nodes[0].part.once("verify")
    except ProgramFailed as refused:
        record.verify = str(refused)
    except TimeoutError:
        record.verify = "run.py verify does not end"
