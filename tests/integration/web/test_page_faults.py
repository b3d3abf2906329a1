"""The chat page while things fail: network, service, model, session. It says so in words, and loses nothing."""

import re
from pathlib import Path

import pytest
from playwright.async_api import Response, Route

from tests.integration.web.conftest import Site
from tests.support.model.model_server import ModelServer
from tests.support.programs.chat_page import Chat, expect, profile
from tests.support.programs.external_programs import free_port
from tests.support.programs.faulty_proxy import FaultyProxy
from tests.support.service import program, started

pytestmark = [pytest.mark.real_part, pytest.mark.asyncio(loop_scope="module")]

SECOND_H = 1 / 3600  # as timeout_hours


def proxy_of(site: Site) -> FaultyProxy:
    return FaultyProxy(site.service.client.base_url.port or 0)


async def test_what_is_sent_offline_goes_out_once_when_the_network_is_back(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        await chat.is_complete()
        await user.set_offline(True)
        await expect(chat.banners).to_contain_text("You are offline.")
        await chat.ask("Sent in a tunnel")
        await expect(chat.questions.first).to_contain_text("You are offline.")
        await expect(chat.questions.first.get_by_role("button", name="Try again")).to_be_visible()
        await user.set_offline(False)
        await chat.reply_is("You said: Sent in a tunnel")
        await expect(chat.banners).to_have_count(0)
        assert len(site.model.requests) == 1


async def test_what_shows_messages_is_loaded_when_the_network_is_back(site: Site) -> None:
    requests: list[tuple[str, str]] = []
    async with profile(site.browser) as user:
        await user.route("**/marked.esm.js", lambda route: route.abort())  # a module that another one imports
        user.on("request", lambda request: requests.append((request.resource_type, request.url)))
        chat = await Chat.open(user, site.url)
        await chat.ask("Sent to a part of a page")
        await expect(chat.banners).to_contain_text("Messages cannot be shown yet")
        await expect(chat.list.get_by_role("link", name=re.compile("Sent to a part"))).to_be_visible()
        await chat.message.fill("Half a thought")
        tried = {kind for kind, url in requests if url.endswith("/log_view.js")}
        assert tried == {"fetch"}  # older browsers would not try again after a failed import
        await user.unroute_all()
        await user.set_offline(True)
        await user.set_offline(False)
        await chat.reply_is("You said: Sent to a part of a page")
        await expect(chat.banners).to_have_count(0)
        await expect(chat.message).to_have_value("Half a thought")
        assert len(site.model.requests) == 1


async def test_what_is_sent_offline_survives_a_reload(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        await user.route("**/api/sessions", lambda route: route.abort())
        await chat.ask("Kept in the browser")
        await expect(chat.questions.first).to_contain_text("The service cannot be reached.")
        await user.unroute_all()
        await chat.page.reload()
        await chat.reply_is("You said: Kept in the browser")
        assert len(site.model.requests) == 1


async def test_a_reply_continues_after_its_connection_was_cut(site: Site) -> None:
    async with proxy_of(site) as proxy, profile(site.browser) as user:
        chat = await Chat.open(user, f"http://127.0.0.1:{proxy.port}")
        site.model.script(pieces=("one ", "two ", "three"), stepwise=True)
        await chat.ask("Count")
        text = chat.replies.first.locator(".message-body")
        site.model.step()
        await expect(text).to_have_text("one")
        proxy.down = True
        proxy.drop_connections()
        site.model.step()
        await expect(chat.banners).to_contain_text("Reconnecting")
        proxy.down = False
        site.model.step()
        await chat.reply_is("one two three")
        await expect(chat.banners).to_have_count(0)


async def test_a_frozen_page_catches_up(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        site.model.script(pieces=("before ", "after"), hold_after=1)
        await chat.ask("Close the lid")
        await expect(chat.replies.first.locator(".message-body")).to_have_text("before")
        protocol = await user.new_cdp_session(chat.page)
        await protocol.send("Page.setWebLifecycleState", {"state": "frozen"})
        site.model.release()
        await protocol.send("Page.setWebLifecycleState", {"state": "active"})
        await chat.reply_is("before after")


async def test_another_device_shows_the_same_reply_while_it_is_written(site: Site) -> None:
    async with profile(site.browser) as one, profile(site.browser) as other:
        first = await Chat.open(one, site.url)
        site.model.script(pieces=("Shared ", "reply"), hold_after=1)
        await first.ask("On two devices")
        second = await Chat.open(other, site.url)
        link = second.list.get_by_role("link", name=re.compile("On two devices"))
        await expect(link).to_contain_text("Reply in progress")
        await link.click()
        await expect(second.replies.first.locator(".message-body")).to_have_text("Shared")
        await second.button("Stop the reply").click()
        for chat in (first, second):
            await expect(chat.replies.first).to_have_attribute("data-status", "cancelled")


async def test_an_overloaded_service_is_asked_again(site: Site) -> None:
    refused = 0

    async def refuse(route: Route) -> None:
        nonlocal refused
        refused += 1
        problem = '{"type": "/problems/overloaded", "title": "Overloaded", "status": 503, "detail": "busy"}'
        headers = {"Content-Type": "application/problem+json", "Retry-After": "1"}
        await (route.fulfill(status=503, headers=headers, body=problem) if refused == 1 else route.continue_())

    async with profile(site.browser) as user:
        await user.route("**/api/chat", refuse)
        chat = await Chat.open(user, site.url)
        await chat.is_complete()
        await chat.ask("Are you busy?")
        await expect(chat.questions.first).to_contain_text("The service is busy.")
        await chat.reply_is("You said: Are you busy?")
        assert len(site.model.requests) == 1


async def test_messages_that_full_queues_refuse_go_out_at_the_time_that_the_service_named(
    site: Site, tmp_path: Path
) -> None:
    full = {
        "CHATBOT_LLM_CONCURRENT_MAX": "1",
        "CHATBOT_LLM_QUEUE_MAX": "0",
        "CHATBOT_SESSIONS_QUEUED_MESSAGES_MAX": "1",
    }
    refusals: list[Response] = []

    def note(response: Response) -> None:
        if response.status in (429, 503):
            refusals.append(response)

    async def is_refused(chat: Chat, status: int, words: str) -> None:
        await expect(chat.questions.last).to_contain_text(words)
        assert {response.status for response in refusals} == {status}
        waits = "|".join(f"Next attempt in {response.headers['retry-after']} s" for response in refusals)
        await expect(chat.questions.last).to_contain_text(re.compile(waits))
        refusals.clear()

    async with (
        ModelServer() as model,
        started(tmp_path, model.url, **full) as service,
        profile(site.browser) as user,
    ):
        user.on("response", note)
        chat = await Chat.open(user, service.url.rstrip("/"))
        model.script(pieces=("Held", " back"), hold_after=1)
        await chat.ask("one")
        await expect(chat.replies.first.locator(".message-body")).to_have_text("Held")
        await chat.ask("two")
        await expect(chat.page.get_by_role("region", name="Queued messages")).to_contain_text("two")
        await chat.ask("three")
        await is_refused(chat, 429, "Too many messages wait in this conversation.")
        model.release()
        await chat.reply_is("You said: three")

        model.released.clear()
        model.script(pieces=("Held", " back"), hold_after=1)
        await chat.ask("four")
        await expect(chat.replies.last.locator(".message-body")).to_have_text("Held")
        other = await Chat.open(user, service.url.rstrip("/"))
        await other.ask("elsewhere")
        await is_refused(other, 503, "The service is busy.")
        model.release()
        await other.reply_is("You said: elsewhere")
        asked = [one.body["messages"][-1]["content"] for one in model.requests]
        assert asked == ["one", "two", "three", "four", "elsewhere"]


async def test_a_failed_reply_says_why_and_can_be_repeated(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        site.model.script(pieces=("Half of",), then="error")
        await chat.ask("Will it fail?")
        await expect(chat.replies.first).to_have_attribute("data-status", "failed")
        await expect(chat.replies.first).to_contain_text("Half of")
        await expect(chat.replies.first).to_contain_text(re.compile(r"The reply failed\. .+\.\s*Try again"))
        await chat.replies.first.get_by_role("button", name="Try again").click()
        await chat.reply_is("You said: Will it fail?")


async def test_a_model_that_is_loaded_or_gone_is_told_apart(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        for status, words in ((503, "being loaded"), (500, "cannot be reached")):
            site.model.status = status
            await site.service.services.health.refresh()
            await chat.page.reload()
            await expect(chat.banners).to_contain_text(words)
        site.model.status = 200
        await site.service.services.health.refresh()
        await chat.banners.get_by_role("button", name="Try again").click()
        await expect(chat.banners).to_have_count(0)


async def test_a_conversation_that_expires_or_is_deleted_elsewhere_says_so(site: Site) -> None:
    async with profile(site.browser) as user:
        expiring = await site.service.session(title="Short", timeout_hours=3 * SECOND_H)
        chat = await Chat.open(user, site.url, expiring)
        await expect(chat.page.get_by_text("It expired").first).to_be_visible()
        await expect(chat.button("Send")).to_be_disabled()
        session_id = await site.conversation(("Question", "Answer"), title="Doomed")
        await chat.page.goto(f"{site.url}/#/{session_id}")
        await chat.reply_is("Answer")
        await site.service.client.delete(f"/api/sessions/{session_id}")
        await expect(chat.banners).to_contain_text("It was deleted")
        await chat.page.goto(f"{site.url}/#/{session_id}")
        await chat.page.reload()
        await expect(chat.page.get_by_role("heading", name="This conversation is over", level=2)).to_be_visible()


async def test_a_conversation_that_does_not_exist_leaves_only_a_new_one_to_choose(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url, "nothing-here")
        for level in (1, 2):
            await expect(chat.page.get_by_role("heading", name="Conversation not found", level=level)).to_be_visible()
        await expect(chat.message).to_be_disabled()
        for name in ("Settings of this conversation", "Conversation actions", "Try again"):
            await expect(chat.button(name)).to_have_count(0)
        await chat.page.get_by_role("main").get_by_role("button", name="New chat").click()
        await chat.ask("Hello")
        await chat.reply_is("You said: Hello")


async def test_the_page_lives_through_a_restart_of_the_service(site: Site, tmp_path: Path) -> None:
    async with ModelServer() as model, profile(site.browser) as user:
        settings = {
            "PORT": str(free_port()),
            "CHATBOT_STREAM_SSE_RETRY_S": "0.2",
            "CHATBOT_SERVER_STREAM_CLOSE_TIMEOUT_S": "0",
        }
        async with started(tmp_path, model.url, **settings) as service:
            url = str(service.client.base_url).rstrip("/")
            chat = await Chat.open(user, url)
            await chat.ask("Before")
            await chat.reply_is("You said: Before")
        await expect(chat.banners).to_contain_text("Reconnecting")
        await chat.ask("Meanwhile")
        await expect(chat.questions.last).to_contain_text("cannot be reached")
        async with started(tmp_path, model.url, **settings):
            await chat.reply_is("You said: Meanwhile")
            await expect(chat.banners).to_have_count(0)
            await expect(chat.questions).to_have_count(2)
            await chat.page.close()


async def test_a_reply_that_a_crash_interrupted_is_shown_as_that(site: Site, tmp_path: Path) -> None:
    settings = {
        "PORT": str(free_port()),
        "CHATBOT_STREAM_SSE_RETRY_S": "0.2",
        "CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": "0",
    }
    async with ModelServer() as model, profile(site.browser) as user:
        model.script(pieces=("Half a", " reply"), hold_after=1)
        async with program(tmp_path, model.url, **settings) as first:
            chat = await Chat.open(user, first.url)
            await chat.ask("Will it survive?")
            await expect(chat.replies.first.locator(".message-body")).to_have_text("Half a")
            await first.kill()
        async with program(tmp_path, model.url, **settings):
            await expect(chat.replies.first).to_have_attribute("data-status", "interrupted")
            await chat.replies.first.get_by_role("button", name="Try again").click()
            await chat.reply_is("You said: Will it survive?")
            await chat.page.close()
