"""A picture of ten megabytes: uploaded, shown to the model byte for byte, and gone from every file with its session."""

import base64
import hashlib
import random
from pathlib import Path

from tests.support.http.service_requests import bytes_on_disk
from tests.support.log.media import pieces_found
from tests.support.model.model_server import ModelServer
from tests.support.service import serving

PICTURE = b"\x89PNG\r\n\x1a\n" + random.Random(18).randbytes(10 * 2**20)
SHA256 = hashlib.sha256(PICTURE).hexdigest()


async def test_the_model_sees_the_bytes_and_an_erasure_takes_them_away(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        client = service.client
        model.script(times=None, pieces=("A picture.",))
        uploaded = await client.post("/api/media", content=PICTURE)
        assert (uploaded.status_code, uploaded.json()["sha256"]) == (201, SHA256), uploaded.text
        session_id = await service.session()
        text, part = {"type": "text", "text": "What is it?"}, {"type": "media", "sha256": SHA256, "name": "big.png"}
        answer = await client.post("/api/chat", json={"session_id": session_id, "message": [text, part]})
        assert (answer.status_code, answer.json()["content"]) == (200, "A picture."), answer.text
        shown_text, shown = model.requests[0].body["messages"][0]["content"]
        assert shown_text == text
        scheme, _, data = shown["image_url"]["url"].partition(",")
        assert scheme == "data:image/png;base64"
        assert base64.b64decode(data) == PICTURE
        (kept, _) = (await service.history(session_id))["messages"]
        assert (await client.get(kept["parts"][1]["url"])).content == PICTURE
        assert pieces_found(PICTURE, bytes_on_disk(tmp_path)) > 2000
        assert (await client.delete(f"/api/sessions/{session_id}")).status_code == 204
        assert (await client.get(f"/api/media/{SHA256}")).status_code == 404
        assert pieces_found(PICTURE, bytes_on_disk(tmp_path)) == 0
