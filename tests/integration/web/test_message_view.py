"""Views of messages in Chromium: parts, states and actions."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from chatbot.llm.http.http_response import MALFORMED, TRUNCATED
from tests.support.programs.chat_page import Browser, violations
from tests.support.programs.message_page import MessagePage, message_page

pytestmark = [pytest.mark.real_part, pytest.mark.asyncio(loop_scope="module")]
PICTURE = (  # one pixel
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJ"
    "RU5ErkJggg=="
)
USAGE = {"prompt_tokens": 12, "completion_tokens": 90, "total_tokens": 102, "reasoning_tokens": 30}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[MessagePage]:
    async with message_page(browser) as opened:
        yield opened


async def test_what_a_person_wrote_is_shown_as_it_was_written(page: MessagePage) -> None:
    written = "# no heading\n\n  **two**  spaces <b>x</b>\n👩‍👩‍👧 한국어"
    await page.show(role="user", parts=[text(written)], model=None)
    assert await page.run("() => document.querySelector('.message-text').textContent") == written
    assert await page.page.locator(".message-text *").count() == 0
    assert await page.page.locator(".message-author").inner_text() == "You"


async def test_a_message_without_parts_shows_its_content(page: MessagePage) -> None:
    await page.show(content="*hello*")
    assert await page.html() == '<p dir="auto"><em>hello</em></p>'


async def test_a_reply_that_grows_is_busy_until_it_has_ended(page: MessagePage) -> None:
    await page.show(status="queued")
    article = page.page.get_by_role("article")
    assert (await article.get_attribute("aria-busy"), await article.get_attribute("data-status")) == ("true", "queued")
    await page.update(status="streaming")
    assert "Waiting for the model" in await article.inner_text()
    await page.update(status="streaming", parts=[text("Hel")])
    assert await article.get_attribute("aria-busy") == "true"
    assert await article.get_by_role("button").count() == 0
    await page.update(parts=[text("Hello")])
    assert await article.get_attribute("aria-busy") is None
    assert await page.page.locator(".message-text").inner_text() == "Hello"


async def test_reasoning_is_closed_and_tells_how_long_it_took(page: MessagePage) -> None:
    await page.show(status="streaming", parts=[{"type": "reasoning", "text": "First *I*"}])
    reasoning = page.page.locator("details.message-reasoning")
    assert await reasoning.locator("summary").inner_text() == "Thinking…"
    assert await reasoning.get_attribute("open") is None
    await reasoning.locator("summary").click()
    await reasoning.locator("em").wait_for()
    parts = [{"type": "reasoning", "text": "First *I* think", "duration_us": 12_300_000}, text("Answer")]
    await page.update(status="streaming", parts=parts)
    assert await reasoning.locator("summary").inner_text() == "Thought for 12 s"
    assert await reasoning.locator(".markdown").inner_text() == "First I think"


async def test_a_tool_call_is_laid_out_without_changing_a_value(page: MessagePage) -> None:
    arguments = '{"city":"Seoul, \\"KR\\"","id":12345678901234567890,"at":[1,{"a":null}],"none":{},"city":2}'
    call = {"type": "tool_call", "call_id": "c1", "name": "get_weather", "arguments": arguments}
    await page.show(parts=[call], calls="open", finish_reason="tool_calls")
    summary = page.page.locator("details.message-tool > summary")
    assert "get_weather" in await summary.inner_text()
    assert "waiting for the result" in await summary.inner_text()
    await summary.click()
    laid_out = await page.run(
        "() => document.querySelector('.message-tool code code, .message-tool pre code').textContent"
    )
    assert "".join(laid_out.split()) == "".join(arguments.split())
    assert '\n  "id": 12345678901234567890,\n' in laid_out
    assert '\n  "none": {},\n' in laid_out


async def test_arguments_that_are_not_json_are_shown_as_they_are(page: MessagePage) -> None:
    call = {"type": "tool_call", "call_id": "c1", "name": "f", "arguments": '{"a": '}
    await page.show(parts=[call], status="failed")
    assert await page.run("() => document.querySelector('.message-tool pre code').textContent") == '{"a": '


async def test_results_of_tools_with_texts_and_errors(page: MessagePage) -> None:
    results = [
        {"type": "tool_result", "call_id": "c1", "parts": [text('{"t":3}')]},
        {"type": "tool_result", "call_id": "c2", "is_error": True, "parts": [text("no such city")]},
    ]
    await page.show(role="tool", parts=results, model=None)
    summaries = await page.page.locator(".message-tool > summary").all_inner_texts()
    assert [" ".join(words.split()) for words in summaries] == ["Result of c1", "Error of c2"]
    assert await page.page.locator(".message-tool.is-error pre").text_content() == "no such city"


async def test_a_picture_is_shown_and_opened(page: MessagePage) -> None:
    part = {
        "type": "media",
        "sha256": "a" * 64,
        "media_type": "image/png",
        "bytes": 70,
        "name": "cat.png",
        "url": PICTURE,
    }
    await page.show(role="user", parts=[text("Look"), part])
    await page.page.get_by_role("button", name="Enlarge cat.png").click()
    assert await page.run("() => acted.map(([name, part]) => [name, part.sha256])") == [["openMedia", "a" * 64]]


async def test_a_large_picture_is_made_smaller_and_its_button_is_not_wider(page: MessagePage) -> None:
    svg = "<svg xmlns='http://www.w3.org/2000/svg' width='3000' height='1000'/>"
    url = f"data:image/svg+xml,{svg}"
    part = {"type": "media", "sha256": "d" * 64, "media_type": "image/svg+xml", "bytes": 70, "url": url}
    await page.show(role="user", parts=[part])
    await page.page.get_by_role("button", name="Enlarge").wait_for()
    widths = await page.run("() => ['img', '.media-image'].map((one) => document.querySelector(one).offsetWidth)")
    assert 0 < widths[0] <= widths[1] <= widths[0] + 4 < 400


async def test_a_picture_that_cannot_be_loaded_can_be_tried_again(page: MessagePage) -> None:
    part = {"type": "media", "sha256": "b" * 64, "media_type": "image/png", "bytes": 70, "url": "data:image/png,broken"}
    await page.show(role="user", parts=[part])
    await page.page.get_by_role("button", name="Try again").wait_for()
    assert "could not be loaded" in await page.page.locator(".message-media").inner_text()


async def test_another_file_is_a_button_with_its_name_and_size(page: MessagePage) -> None:
    part = {
        "type": "media",
        "sha256": "c" * 64,
        "media_type": "application/pdf",
        "bytes": 5000,
        "name": "a.pdf",
        "url": "/x",
    }
    await page.show(role="user", parts=[part])
    assert (await page.page.locator(".media-file").inner_text()).split() == ["a.pdf", "5", "KiB"]


FAILURE = {"title": "Reply failed", "detail": "Try later"}
UNSENT = {"status": "unsent", "role": "user"}
AGAIN = ["Try again"]


@pytest.mark.parametrize(
    ("fields", "words", "buttons"),
    [
        pytest.param({"status": "failed", "error": FAILURE}, "The reply failed. Try later.", AGAIN, id="failed"),
        pytest.param({"status": "failed"}, "The reply failed.", AGAIN, id="failed long ago"),
        pytest.param({"status": "interrupted"}, "The reply was interrupted.", AGAIN, id="interrupted"),
        pytest.param({"status": "interrupted", "error": FAILURE}, "interrupted. Try again", AGAIN, id="reason"),
        pytest.param({"status": "cancelled"}, "Stopped.", [], id="cancelled"),
        pytest.param({"finish_reason": "length"}, "reached the limit of tokens", ["Continue"], id="length"),
        pytest.param({"finish_reason": "content_filter"}, "withheld the rest", [], id="content filter"),
        pytest.param(
            {**UNSENT, "outbox": {"state": "failed", "words": "No."}}, "No.", [*AGAIN, "Discard"], id="unsent"
        ),
        pytest.param({**UNSENT, "outbox": {"state": "sending"}}, "Sending…", [], id="sending"),
    ],
)
async def test_how_a_message_ended_is_told_in_words(
    page: MessagePage, fields: Any, words: str, buttons: list[str]
) -> None:
    await page.show(parts=[text("partial")], **fields)
    state = page.page.locator(".message-state")
    assert words in await state.inner_text()
    assert await state.get_by_role("button").all_inner_texts() == buttons


async def test_a_refusal_is_shown_with_its_reason(page: MessagePage) -> None:
    await page.show(parts=[{"type": "refusal", "text": "I can't *do* that."}])
    assert await page.page.locator(".message-refusal").inner_text() == "I can't *do* that."


async def test_usage_and_speed(page: MessagePage) -> None:
    await page.show(parts=[text("x")], token_usage=USAGE, timing={"first_ms": 1000, "last_ms": 4000})
    used = page.page.locator(".message-usage")
    assert await used.inner_text() == "90 tokens · 30 tokens/s"
    assert await used.get_attribute("title") == "prompt: 12, reply: 90, of which reasoning: 30"
    await page.update(parts=[text("x")], token_usage=USAGE)
    assert await used.inner_text() == "90 tokens"
    await page.update(parts=[text("x")], token_usage=USAGE, duration_us=5_000_000, time_to_first_token_us=500_000)
    assert await used.inner_text() == "90 tokens · 20 tokens/s"


async def test_versions_of_a_message(page: MessagePage) -> None:
    await page.show(parts=[text("x")], siblings=["m0", "m1"])
    group = page.page.get_by_role("group", name="Versions")
    assert (await group.inner_text()).strip() == "2 / 2"
    assert await group.get_by_role("button", name="Next version").is_disabled()
    await group.get_by_role("button", name="Previous version").click()
    assert await page.run("() => acted") == [["selectSibling", "m1", "m0"]]


async def test_actions_of_a_reply_and_of_a_message(page: MessagePage) -> None:
    await page.show(parts=[{"type": "reasoning", "text": "hm"}, text("The *answer*"), text("and more")])
    for name in ("Copy", "Regenerate", "Continue from here in a new conversation"):
        await page.page.locator(".message-footer").get_by_role("button", name=name).click()
    assert await page.run("() => acted") == [["copy", "The *answer*\n\nand more"], ["regenerate", "m1"], ["fork", "m1"]]
    await page.page.get_by_role("button", name="Copied").wait_for()
    await page.show(role="user", parts=[text("Question")])
    assert await page.page.locator(".message-footer").get_by_role("button", name="Regenerate").count() == 0
    await page.page.get_by_role("button", name="Edit").click()
    assert await page.run("() => acted") == [["edit", "m1"]]


async def test_the_focus_stays_on_a_button_that_is_made_again(page: MessagePage) -> None:
    await page.show(parts=[text("x")])
    await page.page.get_by_role("button", name="Regenerate").focus()
    await page.update(parts=[text("x")], siblings=["m1", "m2"])
    assert await page.run("() => document.activeElement.dataset.action") == "regenerate"


async def test_code_can_be_copied_by_keyboard(page: MessagePage) -> None:
    await page.show(parts=[text("```\na < b\n```")])
    clipboard = "{ writeText: async (text) => { window.copied = text; } }"
    await page.run(f"() => Object.defineProperty(navigator, 'clipboard', {{ value: {clipboard} }}) && null")
    await page.page.get_by_role("button", name="Copy").first.focus()
    await page.page.keyboard.press("Enter")
    await page.page.get_by_role("button", name="Copied").wait_for()
    assert await page.run("() => copied") == "a < b"
    assert await page.page.get_by_role("button", name="Copied").evaluate("(one) => one === document.activeElement")


async def test_a_part_that_this_page_does_not_know_is_named(page: MessagePage) -> None:
    await page.show(parts=[{"type": "hologram"}])
    assert "hologram" in await page.page.locator(".message-body").inner_text()


MANY = (
    "# H\n\ntext `code` [link](https://x.y)\n\n```py\nx = 1  # c\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n- [x] t\n\n$$x^2$$\n\n"
    "> q\n\n#### Too deep\n\n## Two\n\n" + "y" * 400
)
WIDE = f"```\n{'z' * 400}\n```\n\n|{'w' * 200}|{'v' * 200}|\n|-|-|\n\n$${'a+' * 200}b$$"
ALL_KINDS = """(shown) => { clear(); for (const one of shown) show(one); }"""


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
async def test_messages_are_accessible_and_no_wider_than_the_window(browser: Browser, scheme: Any, width: int) -> None:
    long = {"type": "tool_call", "call_id": "c", "name": "f" * 100, "arguments": '{"a":"' + "b" * 500 + '"}'}
    messages = [
        {"role": "user", "parts": [text("Hi " + "x" * 300)], "siblings": ["m1", "m2"]},
        {"parts": [{"type": "reasoning", "text": "hm", "duration_us": 1_000_000}, text(MANY)]},
        {"parts": [text(WIDE)]},
        {"parts": [long], "calls": "open", "token_usage": USAGE},
        {"role": "tool", "parts": [{"type": "tool_result", "call_id": "c", "parts": [text("ok")], "is_error": True}]},
        {"status": "failed", "error": {"title": "Failed.", "detail": "e" * 300}},
        {"status": "streaming"},
        {"parts": [{"type": "refusal", "text": "No."}]},
    ]  # fmt: skip
    async with message_page(browser, color_scheme=scheme, viewport={"width": width, "height": 900}) as page:
        await page.run(ALL_KINDS, messages)
        await page.page.locator(".message-text math").first.wait_for()
        await page.run("() => { for (const one of document.querySelectorAll('details')) one.open = true; }")
        assert await page.run("() => document.documentElement.scrollWidth") <= width
        assert await violations(page.page) == []


async def test_korean_words(browser: Browser) -> None:
    async with message_page(browser, locale="ko-KR") as page:
        await page.show(parts=[{"type": "reasoning", "text": "음", "duration_us": 12_000_000}, text("**네**, `코드`")])
        assert await page.page.locator("summary").inner_text() == "12초 동안 생각함"
        assert await page.page.get_by_role("button", name="다시 생성").count() == 1
        error = {"title": "LLM server not available", "detail": "LLM server not available"}
        await page.show(parts=[], status="failed", error=error)
        words = await page.page.locator(".message-state").inner_text()
        assert words == "답변을 생성하지 못했습니다. 모델에 연결할 수 없습니다. 다시 시도"


@pytest.mark.parametrize(
    ("detail", "words"),
    [
        ("The model server answered 401 (key refused)", "refused the key of this service"),
        ("The model server answered 404", "does not know the model"),
        ("The model server answered 400; auditors find its words", "refused the request (400)"),
        ("The model server answered 500", "has a problem (500)"),
        ("The model server filtered the whole reply", "withheld the whole reply"),
        ("The reply reached its length limit before its first character", "before the reply began"),
        ("The model server gave an empty reply", "gave an empty reply."),
        (TRUNCATED, "incomplete"),
        (MALFORMED, "incomplete"),
        ("Something that is new", "Something that is new."),
    ],
)
async def test_why_a_reply_failed_is_told_in_the_words_of_the_page(page: MessagePage, detail: str, words: str) -> None:
    await page.show(parts=[], status="failed", error={"title": "LLM server failed", "detail": detail})
    assert words in await page.page.locator(".message-state").inner_text()
