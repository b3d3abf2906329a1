"""The chat page for everybody: axe, the keyboard alone, screen readers, narrow screens, themes and languages."""

import re
from pathlib import Path

import pytest

from tests.integration.web.conftest import Site
from tests.support.programs.chat_page import BrowserContext, Chat, expect, profile, violations
from tests.support.service import started

pytestmark = [pytest.mark.real_part, pytest.mark.asyncio(loop_scope="module")]

RICH = """# Title

Some **text** with `code`, a [link](https://example.org) and $x^2$.

```python
def digest(): ...  # a comment
```

| a | b |
|---|---|
| 1 | 2 |

- [x] done
"""
THEMES = ("light", "dark")


async def check(chat: Chat, state: str) -> None:
    """axe finds nothing, in both themes."""
    for theme in THEMES:
        await chat.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]  # one of these words
        assert not await violations(chat.page), f"{state}, {theme}"


async def test_axe_finds_nothing_in_a_conversation_and_what_opens_over_it(site: Site) -> None:
    site.model.script(
        deltas=({"reasoning_content": "Hm."}, {"content": RICH}),
        finish_reason="stop",
    )
    session_id = await site.service.session(title="Accessible")
    await site.service.chat(session_id, "Show everything")
    async with profile(site.browser, reduced_motion="reduce") as user:
        chat = await Chat.open(user, site.url, session_id)
        await expect(chat.replies.first.locator(".hljs-keyword")).to_be_visible()
        await chat.replies.first.locator(".message-reasoning summary").click()
        site.model.script(pieces=("Growing", "!"), hold_after=1)
        await chat.ask("And now?")
        await expect(chat.replies.last.locator(".message-body")).to_have_text("Growing")
        await chat.ask("Waiting behind it")
        await expect(chat.page.get_by_role("region", name="Queued messages")).to_be_visible()
        await check(chat, "conversation")
        await chat.button("Settings of this conversation").click()
        await expect(chat.page.get_by_label("Temperature")).to_be_visible()
        await check(chat, "settings")
        await chat.button("Conversation actions").click()
        await check(chat, "menu")
        await chat.page.get_by_role("menuitem", name="Rename").click()
        await check(chat, "dialog")
        await chat.page.keyboard.press("Escape")
        await chat.page.keyboard.press("Control+/")
        await expect(chat.page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
        await check(chat, "help")
        site.model.release()


async def test_axe_finds_nothing_on_a_narrow_screen_with_faults(site: Site) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "reduced_motion": "reduce"}
    async with profile(site.browser, **phone) as user:
        chat = await Chat.open(user, site.url)
        await check(chat, "empty")
        await chat.is_complete()
        await user.set_offline(True)
        await chat.message.fill("Not sent")
        await chat.button("Send").click()  # Enter begins a line on a touch screen
        await expect(chat.questions.first.get_by_role("button", name="Try again")).to_be_visible()
        await check(chat, "offline")
        await chat.button("Show conversations").click()
        await expect(chat.list.get_by_role("searchbox")).to_be_visible()
        await check(chat, "drawer")
        await user.set_offline(False)


async def test_axe_finds_nothing_where_replies_ended_early_and_the_model_is_away(site: Site) -> None:
    session_id = await site.service.session(title="Ended early")
    tablet = {"viewport": {"width": 768, "height": 1024}, "reduced_motion": "reduce"}
    async with profile(site.browser, **tablet) as user:
        chat = await Chat.open(user, site.url, session_id)
        site.model.script(pieces=("Half of",), then="error")
        await chat.ask("Will it fail?")
        await expect(chat.replies.first).to_have_attribute("data-status", "failed")
        site.model.script(pieces=("Half", " and half"), hold_after=1)
        await chat.ask("Will it be stopped?")
        await expect(chat.replies.last.locator(".message-body")).to_have_text("Half")
        await chat.button("Stop the reply").click()
        await expect(chat.replies.last).to_have_attribute("data-status", "cancelled")
        await check(chat, "failed and cancelled replies")
        for status, words in ((503, "being loaded"), (500, "cannot be reached")):
            site.model.status = status
            await site.service.services.health.refresh()
            await chat.page.reload()
            await expect(chat.banners).to_contain_text(words)
            await expect(chat.replies).to_have_count(2)
            await check(chat, words)
    site.model.status = 200
    await site.service.services.health.refresh()


async def test_axe_finds_nothing_in_korean_on_a_wide_screen(site: Site) -> None:
    session_id = await site.conversation(("질문", RICH), title="한국어")
    wide = {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"}
    async with profile(site.browser, locale="ko-KR", **wide) as user:
        page = await user.new_page()
        await page.goto(f"{site.url}/#/{session_id}")
        await expect(page.locator(".hljs-keyword")).to_be_visible()
        await page.get_by_role("button", name="이 대화의 설정", exact=True).click()
        await expect(page.get_by_label("온도")).to_be_visible()
        await check(Chat(page), "Korean, settings beside the conversation")


async def test_axe_finds_nothing_where_a_key_is_asked_for(site: Site, tmp_path: Path) -> None:
    async with (
        started(tmp_path, site.model.url, CHATBOT_API_KEYS="alice:correct-horse-battery") as locked,
        profile(site.browser, reduced_motion="reduce") as user,
    ):
        chat = await Chat.open(user, locked.url.rstrip("/"))
        dialog = chat.page.get_by_role("dialog", name="API key")
        await expect(dialog).to_be_visible()
        await check(chat, "key dialog")
        await dialog.get_by_label("Key", exact=True).fill("a wrong one")
        await dialog.get_by_role("button", name="Continue").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("not known here")
        await check(chat, "wrong key")
        await dialog.get_by_role("button", name="Not now").click()
        await expect(chat.banners).to_contain_text("needed")
        await check(chat, "no key")


async def test_the_keyboard_alone_is_enough(site: Site) -> None:
    session_id = await site.conversation(("Question", "Answer"), title="By keyboard")
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url, session_id)
        keys = chat.page.keyboard
        await chat.reply_is("Answer")
        await expect(chat.message).to_be_focused()
        await keys.press("Shift+Tab")
        await expect(chat.replies.last.get_by_role("button", name="Continue from here")).to_be_focused()
        await keys.press("Control+Shift+o")
        await expect(chat.message).to_be_focused()
        await keys.type("From the keyboard")
        await keys.press("Enter")
        await chat.reply_is("You said: From the keyboard")
        await keys.press("Alt+ArrowUp")
        await expect(chat.replies.last).to_be_focused()
        await keys.press("Shift+Escape")
        await expect(chat.message).to_be_focused()
        await keys.press("Control+k")
        await keys.press("ArrowDown")
        await keys.press("F2")
        await expect(chat.page.get_by_role("dialog", name="Rename conversation")).to_be_visible()
        await keys.press("Escape")
        await expect(chat.list.get_by_role("listitem").get_by_role("link").first).to_be_focused()


async def test_a_screen_reader_hears_finished_replies_and_no_tokens(site: Site) -> None:
    async with profile(site.browser) as user:
        chat = await Chat.open(user, site.url)
        site.model.script(pieces=("Half", " done"), hold_after=1)
        await chat.ask("Speak")
        reply = chat.replies.first
        await expect(reply.locator(".message-body")).to_have_text("Half")
        await expect(chat.log).to_have_attribute("role", "log")
        await expect(reply).to_have_attribute("aria-busy", "true")
        announcer = chat.page.locator("#announcer")
        await expect(announcer).not_to_contain_text("Reply finished")
        site.model.release()
        await expect(announcer).to_have_text("Reply finished")
        await expect(reply).not_to_have_attribute("aria-busy", "true")


async def overflow(user: BrowserContext, url: str, width: int) -> int:
    """By how many pixels the page is wider than the screen."""
    page = await user.new_page()
    await page.set_viewport_size({"width": width, "height": 700})
    await page.goto(url)
    await page.locator("article[data-role=assistant]").wait_for()
    wider: int = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    await page.close()
    return wider


async def test_nothing_is_wider_than_the_screen(site: Site) -> None:
    words = "A_very_long_word_" * 30
    session_id = await site.conversation(
        (words, f"{words}\n\n```\n{words}\n```\n\n| {words} | b |\n|---|---|\n| 1 | 2 |")
    )
    async with profile(site.browser) as user:
        for width in (320, 360, 768, 1440):
            assert await overflow(user, f"{site.url}/#/{session_id}", width) <= 0, width


async def test_the_page_speaks_the_browsers_language_or_the_one_that_was_chosen(site: Site) -> None:
    async with profile(site.browser, locale="ko-KR") as user:
        page = await user.new_page()
        await page.goto(site.url)
        await expect(page.get_by_role("heading", name="무엇을 도와드릴까요?")).to_be_visible()
        await expect(page.locator("html")).to_have_attribute("lang", "ko")
        await page.get_by_role("textbox", name="메시지").fill("초안")
        await page.get_by_label("언어").select_option("en")
        await expect(page.get_by_role("heading", name="What can I help with?")).to_be_visible()
        await expect(page.get_by_role("textbox", name="Message", exact=True)).to_have_value("초안")


async def test_the_theme_is_the_systems_or_the_one_that_was_chosen(site: Site) -> None:
    async with profile(site.browser, color_scheme="dark") as user:
        chat = await Chat.open(user, site.url)
        background = "getComputedStyle(document.body).backgroundColor"
        dark = await chat.page.evaluate(background)
        await chat.page.get_by_label("Theme").select_option("light")
        assert await chat.page.evaluate(background) != dark
        await chat.page.reload()
        await expect(chat.page.locator("html")).to_have_attribute("data-theme", "light")
        assert await chat.page.evaluate(background) != dark


async def test_nothing_moves_for_those_who_want_no_motion(site: Site) -> None:
    async with profile(site.browser, reduced_motion="reduce") as user:
        chat = await Chat.open(user, site.url)
        site.model.script(pieces=("Growing", "!"), hold_after=1)
        await chat.ask("Move")
        await expect(chat.replies.first).to_contain_text("Growing")
        moving = "document.getAnimations().filter((one) => one.effect.getComputedTiming().duration > 20).length"
        assert await chat.page.evaluate(moving) == 0
        site.model.release()
        await expect(chat.page).to_have_title(re.compile("Move"))
