"""What becomes of a reply whose client leaves: cancelled where nobody can read it any more, else it goes on."""

import uuid

import pytest

from tests.support.http.completion_requests import complete, leave, status_of_reply
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_that_no_conversation_keeps_is_cancelled(
    service: Running, model: ModelServer, *, stream: bool
) -> None:
    await leave(service, model, stream=stream)
    await model.wait_aborted(1)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_reply_of_a_conversation_goes_on(service: Running, model: ModelServer, *, stream: bool) -> None:
    session_id = await service.session()
    await leave(service, model, headers={"X-Session-Id": session_id}, stream=stream)
    model.release()
    assert await status_of_reply(service, session_id) == "complete"
    assert model.aborted == []


async def test_a_request_with_an_idempotency_key_may_come_again(service: Running, model: ModelServer) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    await leave(service, model, headers=headers, stream=True)
    model.release()
    answer = await complete(service, headers=headers, stream=True)
    assert answer.text.count("there") == 1
    assert (len(model.requests), model.aborted) == (1, [])
