"""The list of conversations on the chat page: names, marks, filter, deletion with undo, export, several tabs."""

import json
import re
from pathlib import Path

import pytest

from tests.integration.web.conftest import Site
from tests.support.programs.chat_page import Chat, Locator, expect, profile

pytestmark = [pytest.mark.real_part, pytest.mark.asyncio(loop_scope="module")]


def entry(chat: Chat, title: str) -> Locator:
    return chat.list.get_by_role("listitem").filter(has_text=title)


async def choose(chat: Chat, title: str, action: str) -> None:
    """An entry of the menu of a conversation."""
    await entry(chat, title).hover()
    await chat.button(f"Actions for {title}").click()
    await chat.page.get_by_role("menuitem", name=action, exact=True).click()


async def test_a_conversation_is_renamed_and_pinned_in_all_tabs(site: Site) -> None:
    await site.conversation(("Question", "Answer"), title="Old name")
    async with profile(site.browser) as one, profile(site.browser) as other:
        first, second = await Chat.open(one, site.url), await Chat.open(other, site.url)
        await choose(first, "Old name", "Rename")
        dialog = first.page.get_by_role("dialog", name="Rename conversation")
        await dialog.get_by_label("Title").fill("New name")
        await dialog.get_by_role("button", name="Save").click()
        await expect(entry(first, "New name")).to_be_visible()
        await choose(first, "New name", "Pin")
        for chat in (first, second):
            pinned = chat.list.get_by_role("region", name="Pinned")
            await expect(pinned.get_by_role("link", name=re.compile("New name"))).to_be_visible()


async def test_a_reply_that_nobody_saw_is_marked_until_somebody_does(site: Site) -> None:
    session_id = await site.conversation(("Question", "Answer"), title="Unread one")
    async with profile(site.browser) as one, profile(site.browser) as other:
        first, second = await Chat.open(one, site.url), await Chat.open(other, site.url)
        await expect(entry(first, "Unread one")).to_contain_text("Unread")
        await expect(entry(first, "Unread one").locator(".session-preview")).to_have_text("Answer")
        await expect(first.page).to_have_title(re.compile(r"^\(\d+\)"))
        await first.page.goto(f"{site.url}/#/{session_id}")
        await first.reply_is("Answer")
        for chat in (first, second):
            await expect(entry(chat, "Unread one").get_by_text("Unread", exact=True)).to_have_count(0)


async def test_a_deletion_can_be_undone_until_it_is_final(site: Site) -> None:
    session_id = await site.conversation(("Question", "Answer"), title="To delete")
    address = f"/api/sessions/{session_id}"
    async with profile(site.browser) as user:
        await user.clock.install()
        chat = await Chat.open(user, site.url, session_id)
        await choose(chat, "To delete", "Delete")
        await expect(entry(chat, "To delete")).to_have_count(0)
        await expect(chat.page.get_by_role("heading", name="What can I help with?")).to_be_visible()
        await chat.button("Undo").click()
        await expect(entry(chat, "To delete")).to_be_visible()
        await chat.reply_is("Answer")
        assert (await site.service.client.get(address)).status_code == 200
        await choose(chat, "To delete", "Delete")
        async with chat.page.expect_response(lambda one: one.request.method == "DELETE"):
            await chat.page.clock.fast_forward(10_000)
        assert (await site.service.client.get(address)).status_code == 404


async def test_a_held_conversation_comes_back_with_words_and_nothing_to_try_again(site: Site) -> None:
    session_id = await site.conversation(("Question", "Answer"), title="Held")
    hold = {"session_id": session_id, "reason": "a lawsuit"}
    assert (await site.service.client.post("/api/holds", json=hold)).status_code == 201
    async with profile(site.browser) as user:
        await user.clock.install()
        chat = await Chat.open(user, site.url, session_id)
        await choose(chat, "Held", "Delete")
        await expect(entry(chat, "Held")).to_have_count(0)
        async with chat.page.expect_response(lambda one: one.request.method == "DELETE"):
            await chat.page.clock.fast_forward(10_000)
        await expect(entry(chat, "Held")).to_be_visible()
        toast = chat.page.locator(".toast")
        await expect(toast).to_have_text("A legal hold covers this conversation: it cannot be deleted.")
        await expect(toast.get_by_role("button")).to_have_count(0)


async def test_titles_are_searched_on_the_server(site: Site) -> None:
    for title in ("Blue whale", "Blue moon", "Red moon"):
        await site.conversation(title=title)
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        await chat.page.keyboard.press("Control+k")
        await chat.page.keyboard.type("blue")
        await expect(entry(chat, "Blue")).to_have_count(2)
        await expect(entry(chat, "Red moon")).to_have_count(0)
        await chat.page.keyboard.press("ArrowDown")
        await expect(chat.list.get_by_role("listitem").get_by_role("link").first).to_be_focused()
        await chat.list.get_by_role("searchbox").fill("nothing like this")
        await expect(chat.list.get_by_text("No title matches.")).to_be_visible()


async def test_a_conversation_is_exported(site: Site, tmp_path: Path) -> None:
    await site.conversation(("Question", "Exported answer"), title="To export")
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        for form, suffix in (("Markdown", ".md"), ("JSON", ".json")):
            async with chat.page.expect_download() as started:
                await choose(chat, "To export", f"Export as {form}")
            download = await started.value
            assert download.suggested_filename.endswith(suffix)
            saved = tmp_path / download.suggested_filename
            await download.save_as(saved)
            assert "Exported answer" in saved.read_text()
        assert json.loads(saved.read_text())
