"""The chat page with the small real model, as a newcomer starts it."""

import pytest

from tests.support.programs.chat_page import Browser, Chat, expect, profile
from tests.support.programs.external_programs import needs_model
from tests.support.service import program

pytestmark = [pytest.mark.real_part, needs_model, pytest.mark.asyncio(loop_scope="module")]

EMBEDDED = {"CHATBOT_LLM_PROVIDER": "auto"}
NO_SERVER = ""


async def test_a_newcomer_talks_stops_reloads_and_continues_elsewhere(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("real")
    async with (
        program(folder, NO_SERVER, **EMBEDDED) as running,
        profile(browser) as one,
        profile(browser) as other,
    ):
        chat = await Chat.open(one, running.url)
        await chat.button("Settings of this conversation").click()
        await chat.page.get_by_label("Longest reply").fill("400")
        await chat.button("Close settings").click()
        await chat.ask("Write a long story about a whale.")
        reply = chat.replies.first
        await expect(reply.locator(".message-text")).not_to_be_empty()
        await expect(reply).to_contain_text("SmolLM2-135M-Instruct")
        await chat.page.reload()
        await expect(reply.locator(".message-text")).not_to_be_empty()
        session_id = await chat.session_id()
        second = await Chat.open(other, running.url, session_id)
        await expect(second.replies.first.locator(".message-text")).not_to_be_empty()
        await second.button("Stop the reply").click()
        for seen in (chat, second):
            await expect(seen.replies.first).to_have_attribute("data-status", "cancelled")
        text = await chat.replies.first.locator(".message-text").inner_text()
        assert text == await second.replies.first.locator(".message-text").inner_text()
        await second.ask("Say hello.")
        await expect(chat.replies).to_have_count(2)
