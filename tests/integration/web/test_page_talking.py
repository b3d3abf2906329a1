"""Talking on the chat page, in a real browser: messages, streaming, queue, branches, images, settings."""

import base64
import re
from typing import Any

import pytest

from tests.integration.web.conftest import Site
from tests.support.programs.chat_page import Chat, expect, profile

pytestmark = [pytest.mark.real_part, pytest.mark.asyncio(loop_scope="module")]

MARKDOWN = """# Chains

First **paragraph**.

```python
def digest(): ...
```

| a | b |
|---|---|
| 1 | 2 |

$$x^2$$

<img src=x onerror="document.title='broken'"> [link](javascript:alert(1))
"""
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def pieces(text: str, size: int = 8) -> tuple[str, ...]:
    return tuple(text[at : at + size] for at in range(0, len(text), size))


async def test_a_first_message_makes_a_conversation_and_its_reply_grows(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        await expect(chat.page.get_by_role("heading", name="What can I help with?")).to_be_visible()
        site.model.script(pieces=("Hello ", "there"), hold_after=1)
        await chat.ask("Greet me")
        reply = chat.replies.first
        await expect(reply.locator(".message-body")).to_have_text("Hello")
        await expect(reply).to_have_attribute("aria-busy", "true")
        await expect(chat.message).to_have_value("")
        site.model.release()
        await chat.reply_is("Hello there")
        await expect(chat.page.locator("#announcer")).to_have_text("Reply finished")
        await expect(reply.locator(".message-usage")).to_contain_text("tokens")
        await expect(chat.list.get_by_role("link", name=re.compile("Greet me"))).to_have_attribute(
            "aria-current", "page"
        )
        await chat.page.reload()
        await chat.reply_is("Hello there")
        assert len(await site.service.history(await chat.session_id())) > 0


async def test_markdown_is_shown_and_no_html_of_a_model_takes_effect(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        site.model.script(pieces=pieces(MARKDOWN))
        await chat.ask("Show everything")
        reply = chat.replies.first
        await expect(reply.get_by_role("heading", name="Chains")).to_be_visible()
        await expect(reply.locator("strong")).to_have_text("paragraph")
        await expect(reply.locator(".hljs-keyword")).to_have_text("def")
        await expect(reply.get_by_role("cell", name="2")).to_be_visible()
        await expect(reply.locator("math msup")).to_be_attached()
        await expect(reply).to_contain_text("<img src=x onerror=")
        assert await reply.locator(".markdown img, a[href^='javascript']").count() == 0
        assert "broken" not in await chat.page.title()


async def test_finished_blocks_are_not_made_again_while_a_reply_grows(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        site.model.script(pieces=("First block.\n\nSecond", " block.\n\nThird"), hold_after=1)
        await chat.ask("Write")
        first = chat.replies.first.locator(".markdown > p").first
        await expect(first).to_have_text("First block.")
        await first.evaluate("element => { element.marked = true; }")
        site.model.release()
        await chat.reply_is("First block.Second block.Third")
        assert await first.evaluate("element => element.marked === true")


async def test_reasoning_is_collapsed_with_its_duration_and_tool_calls_are_readable(site: Site) -> None:
    deltas: tuple[dict[str, Any], ...] = (
        {"reasoning_content": "Which weather? "},
        {"reasoning_content": "Seoul's."},
        {"content": "I ask."},
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"city":"Seoul"}'}}]},
    )
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        site.model.script(deltas=deltas, finish_reason="tool_calls", hold_after=1)
        await chat.ask("The weather?")
        reasoning = chat.replies.first.locator(".message-reasoning")
        await expect(reasoning.locator("summary")).to_contain_text("Thinking")
        site.model.release()
        await expect(reasoning.locator("summary")).to_contain_text("Thought for")
        assert not await reasoning.evaluate("element => element.open")
        await reasoning.locator("summary").click()
        await expect(reasoning).to_contain_text("Which weather? Seoul's.")
        call = chat.replies.first.locator(".message-tool")
        await expect(call).to_contain_text("weather")
        await expect(call).to_contain_text("Seoul")


async def test_stop_keeps_what_was_written(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        site.model.script(pieces=("Half", " and half"), hold_after=1)
        await chat.ask("Write a lot")
        await expect(chat.replies.first.locator(".message-body")).to_have_text("Half")
        await chat.page.keyboard.press("Escape")
        await expect(chat.replies.first).to_have_attribute("data-status", "cancelled")
        await expect(chat.replies.first).to_contain_text("Stopped.")
        await expect(chat.button("Send")).to_be_visible()
        await expect(chat.page.locator("#announcer")).to_have_text("Reply stopped")


async def test_messages_that_wait_are_shown_and_can_be_edited_and_removed(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        site.model.script(pieces=("First", " reply"), hold_after=1)
        await chat.ask("one")
        await expect(chat.replies.first.locator(".message-body")).to_have_text("First")
        queue = chat.page.get_by_role("region", name="Queued messages")
        for text in ("two", "three"):
            await chat.ask(text)
            await expect(queue).to_contain_text(text)
        await queue.locator("li", has_text="two").get_by_role("button", name="Remove").click()
        await expect(queue).not_to_contain_text("two")
        await queue.locator("li", has_text="three").get_by_role("button", name="Edit").click()
        await expect(chat.message).to_have_value("three")
        await chat.ask("three, changed")
        await expect(queue).to_contain_text("three, changed")
        site.model.release()
        await chat.reply_is("You said: three, changed")
        await expect(queue).to_be_hidden()
        asked = [one.body["messages"][-1]["content"] for one in site.model.requests]
        assert asked == ["one", "three, changed"]


async def test_regenerate_edit_and_fork_make_versions_between_which_arrows_lead(site: Site) -> None:
    session_id = await site.conversation(("Question", "First answer"), title="Versions")
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url, session_id)
        await chat.reply_is("First answer")
        site.model.script(pieces=("Second answer",))
        await chat.replies.first.get_by_role("button", name="Regenerate").click()
        await chat.reply_is("Second answer")
        await expect(chat.replies.first).to_contain_text("2 / 2")
        await chat.replies.first.get_by_role("button", name="Previous version").click()
        await chat.reply_is("First answer")
        await chat.questions.first.hover()
        await chat.questions.first.get_by_role("button", name="Edit").click()
        editor = chat.page.get_by_role("textbox", name="Edit message")
        await expect(editor).to_have_value("Question")
        await editor.fill("Another question")
        site.model.script(pieces=("Another answer",))
        await editor.press("Control+Enter")
        await chat.reply_is("Another answer")
        await expect(chat.questions.first).to_contain_text("2 / 2")
        await chat.replies.first.get_by_role("button", name="Continue from here").click()
        await expect(chat.page).not_to_have_url(re.compile(session_id))
        await chat.reply_is("Another answer")
        await expect(chat.page.get_by_role("heading", name="Versions (2)", level=1)).to_be_visible()
        await expect(chat.list.get_by_role("link", name=re.compile("Versions"))).to_have_count(2)
        await chat.page.reload()
        await expect(chat.page.get_by_role("heading", name="Versions (2)", level=1)).to_be_visible()


async def test_images_are_attached_by_choice_and_paste_sent_and_enlarged(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        image = {"name": "dot.png", "mimeType": "image/png", "buffer": PIXEL}
        await chat.page.locator("input[type=file]").set_input_files(image)  # type: ignore[arg-type]
        attached = chat.page.get_by_role("list", name="Attached images").get_by_role("listitem")
        await expect(attached).to_have_count(1)
        await chat.message.evaluate(
            """(element, bytes) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "pasted.png", { type: "image/png" }));
              element.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, cancelable: true }));
            }""",
            list(PIXEL),
        )
        await expect(attached).to_have_count(2)
        await expect(chat.button("Send")).to_be_enabled()  # all are uploaded
        await chat.page.reload()
        await expect(attached).to_have_count(2)
        await chat.ask("What is this?")
        shown = chat.questions.first.get_by_role("img")
        await expect(shown).to_have_count(2)
        await expect(shown.first).to_have_js_property("naturalWidth", 1)
        await chat.questions.first.get_by_role("button", name=re.compile("Enlarge")).first.click()
        await expect(chat.page.get_by_role("dialog").get_by_role("img")).to_be_visible()
        await chat.page.keyboard.press("Escape")
        await expect(chat.page.get_by_role("dialog")).to_have_count(0)


async def test_the_settings_of_a_conversation_reach_the_model(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        await chat.button("Settings of this conversation").click()
        await chat.page.get_by_label("System prompt").fill("Answer in rhymes.")
        await chat.page.get_by_label("Temperature").fill("0.4")
        await chat.page.get_by_label("Longest reply").fill("77")
        await chat.button("Close settings").click()
        await chat.ask("Hello")
        await chat.reply_is("You said: Hello")
        (asked,) = site.model.requests
        assert asked.body["messages"][0] == {"role": "system", "content": "Answer in rhymes."}
        assert asked.body["temperature"] == 0.4
        assert 77 in (asked.body.get("max_tokens"), asked.body.get("max_completion_tokens"))


async def test_a_reply_that_reached_its_limit_goes_on_with_a_larger_one(site: Site) -> None:
    session_id = await site.service.session(title="Cut short")
    site.model.script(pieces=("Once upon",), finish_reason="length")
    await site.service.chat(session_id, "Tell me a story")
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url, session_id)
        await chat.button("Continue").click()
        await chat.reply_is("You said: Continue.")
        await expect(chat.button("Continue")).to_have_count(0)
        await chat.button("New chat").first.click()
        await chat.ask("Something else")
        await chat.reply_is("You said: Something else")
    limits = [one.body.get("max_tokens") or one.body["max_completion_tokens"] for one in site.model.requests]
    assert limits == [256, 4096, 4096]


async def test_drafts_belong_to_their_conversation_and_survive_a_reload(site: Site) -> None:
    session_id = await site.conversation(("Question", "Answer"), title="With a draft")
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url, session_id)
        await chat.message.press_sequentially("Half a thou")
        await chat.button("New chat").first.click()
        await expect(chat.message).to_have_value("")
        await chat.list.get_by_role("link", name=re.compile("With a draft")).click()
        await expect(chat.message).to_have_value("Half a thou")
        await chat.page.reload()
        await expect(chat.message).to_have_value("Half a thou")


async def test_enter_ends_a_korean_syllable_before_it_sends(site: Site) -> None:
    async with profile(site.browser, locale="ko-KR") as user:
        page = await user.new_page()
        await page.goto(site.url)
        message = page.get_by_role("textbox", name="메시지")
        await message.focus()
        protocol = await user.new_cdp_session(page)
        await protocol.send("Input.imeSetComposition", {"text": "안녕", "selectionStart": 2, "selectionEnd": 2})
        key = {"key": "Process", "code": "Enter", "windowsVirtualKeyCode": 229}
        await protocol.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **key})
        await protocol.send("Input.insertText", {"text": "안녕"})
        await expect(message).to_have_value("안녕")
        assert await page.locator("article").count() == 0
        await message.press("Enter")
        await expect(page.locator("article[data-role=assistant] .message-body")).to_have_text("You said: 안녕")
