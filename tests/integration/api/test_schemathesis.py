"""The service answers as /openapi.json describes: Schemathesis asks with what is in the examples, and with what the
schemas allow or forbid, of a service without keys, and of one with keys, with a key and without.
"""

from pathlib import Path

import pytest

from chatbot.api.openapi.examples import QUESTION, REPLY, SESSION
from chatbot.api.openapi.v1_response_operations import EXAMPLE_REPLY, EXAMPLE_SESSION
from tests.support.model.model_server import ModelServer
from tests.support.nightly import scaled
from tests.support.programs.client_tools import needs_client_tools, run_tool
from tests.support.service import serving

pytestmark = [pytest.mark.real_part, pytest.mark.timeout(scaled(300)), needs_client_tools]
CONFIG = Path(__file__).resolve().parents[2] / "support" / "clients" / "schemathesis.toml"
SECRET = "a-secret-of-minas-own"
KEYS = {"CHATBOT_API_KEYS": f"mina:{SECRET}", "CHATBOT_AUTH_AUDITORS": "mina", "CHATBOT_AUTH_ADMINS": "mina"}
# Schemathesis also sends wrong keys, and expects 401 for each.
KEYS["CHATBOT_AUTH_FAILURES_PER_MINUTE"] = "1000000"


# Asked of a service without keys with all that the tool can make up; of one with keys, less: it is the same service.
FEWER = ("--max-examples", scaled(1), "--phases", "examples,fuzzing")


@pytest.mark.parametrize("access", ["no keys exist", "key", "no key"])
async def test_the_service_answers_as_described(tmp_path: Path, model: ModelServer, access: str) -> None:
    is_open = access == "no keys exist"
    headers = {} if is_open else {"X-API-Key": SECRET}
    async with serving(tmp_path, model.url, **({} if is_open else KEYS)) as service:
        service.client.headers.update(headers)
        session_id = await service.session(metadata={"user_id": "example"})
        turn = await service.chat(session_id, "안녕하세요!")
        document = (await service.client.get("/openapi.json")).text
        for example, real in (
            (SESSION, session_id),
            (QUESTION, turn["user_message_id"]),
            (REPLY, turn["message_id"]),
        ):
            document = document.replace(example, real)
        for digits, real in ((EXAMPLE_SESSION, session_id), (EXAMPLE_REPLY, turn["message_id"])):
            document = document.replace(digits, real.replace("-", ""))
        (tmp_path / "openapi.json").write_text(document)
        sent = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
        await run_tool(
            tmp_path, "schemathesis", "--config-file", CONFIG, "run", "openapi.json", "--url", service.client.base_url,
            *(() if is_open else FEWER), *(sent if access == "key" else ()),
        )  # fmt: skip
    wanted = {"no keys exist": 10, "key": 1}
    if access in wanted:
        assert len(model.requests) > wanted[access], "it has had replies written"
    else:
        assert len(model.requests) == 1, "no reply is written without the key"
