"""Markdown in Chromium: what a text looks like, while it grows and afterwards, and that no text can do harm."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.programs.chat_page import Browser
from tests.support.programs.message_page import MessagePage, message_page

pytestmark = [pytest.mark.real_part, pytest.mark.asyncio(loop_scope="module")]
LANGUAGES = Path(__file__).resolve().parents[3] / "chatbot" / "web" / "vendor" / "highlight.js" / "languages"

PIECES = (
    "para text", "\n", "\n\n", "# h", "#", "- item", "1. one", "> quote", "```py\n", "```", "code\n", "~~~",
    "| a | b |", "|---|---|", "\\[", "x^2", "\\]", "$$", "$5", "**bold**", "`c`", "    indented\n", "***", "---", "===",
    "<div>", "<br>", "</div>", "[a]: http://x.y\n", "[a]", "![i](http://u/v.png)", "  - nested", "   ", "\t", "\r\n",
    "한국어", "\\(", "\\)", "<!--", "-->", "* x", "+ y", "2) z", "&amp;", " ", "👩‍👩‍👧",
)  # fmt: skip

# Each would run a script, load something from elsewhere or leave its message, if any of it became markup.
HOSTILE = (
    "<script>window.harmed = 1</script>",
    "<img src=x onerror='window.harmed = 1'>",
    "<svg><script>window.harmed = 1</script></svg>",
    "<svg onload=window.harmed=1>",
    "<math><mtext></mtext><mglyph><style><img src onerror=window.harmed=1></style></mglyph></math>",
    "<iframe srcdoc='<script>parent.harmed = 1</script>'></iframe>",
    "<iframe src='javascript:parent.harmed=1'></iframe>",
    "<object data='https://evil.example/x'></object><embed src='https://evil.example/y'>",
    "<form action='https://evil.example'><input name=a><button>go</button></form>",
    "<base href='https://evil.example/'><link rel=stylesheet href='https://evil.example/s.css'>",
    "<meta http-equiv=refresh content='0; url=https://evil.example/'>",
    "<b onclick='window.harmed = 1' style='position:fixed;inset:0'>cover</b>",
    "<details open ontoggle=window.harmed=1>x</details>",
    "<a href='javascript:window.harmed=1'>x</a>",
    "</article></div></main><script>window.harmed = 1</script>",
    "[x](javascript:window.harmed=1)",
    "[x](JaVaScRiPt:window.harmed=1)",
    "[x](java&#115;cript:window.harmed=1)",
    "[x](&#x6A;avascript:window.harmed=1)",
    "[x](\tjavascript:window.harmed=1)",
    "[x](javascript&colon;window.harmed=1)",
    "[x](vbscript:x)",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](file:///etc/passwd)",
    "[x](blob:http://localhost/1)",
    "<javascript:window.harmed=1>",
    "[x]\n\n[x]: javascript:window.harmed=1",
    "![x](https://evil.example/pixel.png)",
    "![x](javascript:window.harmed=1)",
    "![x](data:image/svg+xml,<svg/onload=window.harmed=1>)",
    "![x\"onerror=window.harmed=1](https://evil.example/a.png)",
    "[x](https://evil.example/ \"t' onmouseover='window.harmed=1\")",
    "```\"><img src=x onerror=window.harmed=1>\ncode\n```",
    "```html\n<img src=x onerror=window.harmed=1>\n```",
    "`<img src=x onerror=window.harmed=1>`",
    "\\(\\href{javascript:window.harmed=1}{x}\\)",
    "$$\\includegraphics{https://evil.example/a.png}$$",
    "$$\\text{<img src=x onerror=window.harmed=1>}$$",
    "$$\\style{position:fixed}{x} \\class{message}{y} \\id{list}{z} \\data{a=b}{c}$$",
    "$$\\rule{99999em}{99999em}$$",
    "$$\\def\\a{\\a\\a}\\a$$",
    "$$" + "{" * 1900 + "}" * 1900 + "$$",
    "$$\\def\\a{" + "x" * 1500 + "}\\def\\b{" + "\\a" * 900 + "}" + "\\b" * 100 + "$$",
    "|<img src=x onerror=window.harmed=1>|\n|---|\n|<script>window.harmed=1</script>|",
    "# <img src=x onerror=window.harmed=1>",
    "- <script>window.harmed=1</script>",
    "<!-- --><script>window.harmed=1</script>",
    "<![CDATA[<script>window.harmed=1</script>]]>",
    "<?php <script>window.harmed=1</script> ?>",
    "&lt;script&gt;window.harmed=1&lt;/script&gt;",
    "\u202etxt.exe \u0000 \ufeff \ud7ff",
)  # fmt: skip
ELEMENTS = {
    "a", "annotation", "blockquote", "br", "button", "code", "del", "div", "em", "h3", "h4", "h5", "h6", "hr", "input",
    "li", "math", "ol", "p", "path", "pre", "span", "strong", "svg", "table", "tbody", "td", "th", "thead", "tr", "ul",
    "b", "i", "u", "s", "small", "mark", "sub", "sup", "kbd", "ins", "var",
    "mrow", "mi", "mo", "mn", "mtext", "mspace", "mstyle", "mpadded", "semantics",
}  # fmt: skip
LOOK = """() => [...document.querySelectorAll(".message-text *")].map((one) =>
  [one.localName, Object.fromEntries([...one.attributes].map((attribute) => [attribute.name, attribute.value]))])"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[MessagePage]:
    async with message_page(browser) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "html"),
    [
        pytest.param("a **b** *c* ~~d~~", "a <strong>b</strong> <em>c</em> <del>d</del>", id="emphasis"),
        pytest.param('**"따옴표"**는', '<strong>"따옴표"</strong>는', id="Korean after a quotation mark"),
        pytest.param("2 * 3 * 4 and snake_case_name", "2 * 3 * 4 and snake_case_name", id="no emphasis"),
        pytest.param("H<sub>2</sub>O<br>x", "H<sub>2</sub>O<br>x", id="harmless HTML"),
        pytest.param("a <font color=red>b</font>", "a &lt;font color=red&gt;b&lt;/font&gt;", id="other HTML"),
        pytest.param("&copy; &#8212; &nosuch; &lt;b&gt;", "© — &amp;nosuch; &lt;b&gt;", id="references"),
        pytest.param("[a](/api/sessions)", "[a](/api/sessions)", id="no address of this service"),
        pytest.param("[a](#x)", "[a](#x)", id="no place in this page"),
        pytest.param("It costs $5, or $6 with A$ 1.", "It costs $5, or $6 with A$ 1.", id="prices"),
        pytest.param("`$x$` and $HOME/$USER", '<code dir="auto">$x$</code> and $HOME/$USER', id="variables"),
    ],
)  # fmt: skip
async def test_a_paragraph(page: MessagePage, text: str, html: str) -> None:
    await page.show_text(text)
    assert await page.html(".message-text > p") == html


async def test_a_link_opens_apart_and_tells_nothing(page: MessagePage) -> None:
    await page.show_text('See [the *site*](https://example.com/a?b=1&amp;c=2 "the &quot;title&quot;").')
    link = page.page.locator(".message-text a")
    assert await link.inner_text() == "the site"
    assert await link.get_attribute("href") == "https://example.com/a?b=1&c=2"
    assert await link.get_attribute("target") == "_blank"
    assert set(str(await link.get_attribute("rel")).split()) == {"noopener", "noreferrer", "nofollow"}
    assert await link.get_attribute("title") == 'the "title"'


async def test_a_picture_of_another_host_is_a_link(page: MessagePage) -> None:
    await page.show_text("![a cat](https://example.com/cat.png)")
    assert await page.page.locator(".message-text img").count() == 0
    assert await page.page.locator(".message-text a").inner_text() == "a cat"


async def test_lists_tables_and_headings(page: MessagePage) -> None:
    await page.show_text("# One\n\n1. a\n   - [x] b\n   - [ ] c\n2. d\n\n|x|y|\n|-|-:|\n|1<br>2|**3**|\n")
    assert await page.page.locator(".message-text h3").inner_text() == "One"
    boxes = page.page.locator(".message-text ol ul input[type=checkbox]")
    assert [await box.is_checked() for box in await boxes.all()] == [True, False]
    region = page.page.get_by_role("group", name="Table")
    assert await region.get_attribute("tabindex") == "0"
    assert await region.get_by_role("columnheader").all_inner_texts() == ["x", "y"]
    assert await region.get_by_role("cell").all_inner_texts() == ["1\n2", "3"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_does_no_harm(page: MessagePage, text: str) -> None:
    before = len(page.requested)
    await page.show_text(text)
    await page.run("() => new Promise((go) => setTimeout(go, 20))")
    for name, attributes in await page.run(LOOK):
        assert name in ELEMENTS, name
        assert not [attribute for attribute in attributes if attribute.startswith("on") or attribute in ("src", "id")]
        assert attributes.get("href", "https://").partition(":")[0] in ("https", "http", "mailto")
        assert "99999" not in json.dumps([attributes.get("width"), attributes.get("style")])
    assert await page.run("() => [window.harmed ?? null, document.querySelectorAll('main > *').length]") == [None, 2]
    assert not [path for path in page.requested[before:] if not path.startswith(("/page/", "/vendor/"))]


SPLIT = """({ BlockSplitter }, texts) => texts.map(([text, steps]) => {
  const splitter = new BlockSplitter(), shown = [];
  let end = 0;
  for (const step of steps) {
    end += step;
    const { from, blocks } = splitter.update(text.slice(0, end));
    shown.splice(from, shown.length, ...blocks);
  }
  const finished = splitter.update(text).from;
  const whole = new BlockSplitter().update(text, true).blocks;
  return shown.slice(0, finished).every((one, index) => one.token.raw === whole[index].token.raw);
})"""


async def test_no_later_text_changes_a_finished_block(page: MessagePage) -> None:
    draw = random.Random(20).choice
    texts = ["".join(draw(PIECES) + draw(("", "\n")) for _ in range(1 + number % 14)) for number in range(400)]
    given = [[text, [draw(range(1, 7)) for _ in range(len(text.encode("utf-16-le")) // 2)]] for text in texts]
    same = await page.module("/page/markdown_blocks.js", SPLIT, given)
    assert [text for text, is_same in zip(texts, same, strict=True) if not is_same] == []


async def test_the_work_grows_with_the_length_of_a_reply_and_not_with_its_square(page: MessagePage) -> None:
    """Counted: the characters that the lexer read, for each character of the text, and the blocks that were made."""
    block = "Some **bold** text with `code` and a [link](http://x.y).\n\n- a\n- b\n\n```py\nx = 1\n```\n\n"
    script = """async ({ BlockSplitter }, [block, counts]) => {
      const { MarkdownView } = await import("/page/markdown.js");
      return counts.map((count) => {
        const text = block.repeat(count), splitter = new BlockSplitter(), view = new MarkdownView();
        for (let end = 0; end <= text.length; end += 20) splitter.update(text.slice(0, end));
        view.update(text, false);
        const madeBefore = view.blocksMade;
        view.update(text, true);
        return [splitter.charactersRead / text.length, madeBefore / count, view.blocksMade - madeBefore];
      });
    }"""
    few, many = await page.module("/page/markdown_blocks.js", script, [block, [20, 400]])
    assert few[0] < 5
    assert many[0] < 5
    assert few[1] == many[1] == 3
    assert few[2] == many[2] == 0, "the end of a reply makes no block again"


async def test_elements_of_finished_blocks_stay_while_the_text_grows(page: MessagePage) -> None:
    await page.show(parts=[{"type": "text", "text": "First.\n\nSecond\n"}], status="streaming")
    await page.run("() => { window.first = document.querySelector('.message-text > p'); }")
    for text in ("First.\n\nSecond\n\n- a", "First.\n\nSecond\n\n- a\n- b\n\nEnd"):
        await page.update(parts=[{"type": "text", "text": text}], status="streaming")
    await page.update(parts=[{"type": "text", "text": text}])
    assert await page.run("() => window.first === document.querySelector('.message-text > p')")
    assert await page.page.locator(".message-text li").count() == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("Text\n\n| a | b |\n|--", "Text", id="table without its second line"),
        pytest.param("Text\n-", "Text", id="list or heading"),
        pytest.param("Text\n\n``", "Text", id="fence"),
        pytest.param("Text\n\n```py", "Text", id="language of a fence"),
        pytest.param("Text\n\n1", "Text", id="number of a list"),
        pytest.param("Text **", "Text", id="emphasis"),
        pytest.param("Text ![", "Text ![", id="no picture yet"),
        pytest.param("Text ![a cat](https://exa", "Text", id="picture"),
        pytest.param("See [the site](https://exa", "See the site", id="link"),
    ],
)
async def test_what_is_not_decided_yet_is_held_back(page: MessagePage, text: str, shown: str) -> None:
    await page.show_text(text, status="streaming")
    await page.wait("document.querySelector('.message-text').textContent !== ''")
    assert (await page.page.locator(".message-text").inner_text()).strip() == shown


@pytest.mark.parametrize(
    ("text", "html"),
    [
        pytest.param("- **Bold wo", "<strong>Bold wo</strong>", id="bold in a list"),
        pytest.param("a **b** and **c ", "a <strong>b</strong> and <strong>c</strong>", id="the second bold words"),
        pytest.param("a **b", "a <strong>b</strong>", id="bold"),
        pytest.param("call `f(", 'call <code dir="auto">f(</code>', id="code"),
        pytest.param("a `**` b", 'a <code dir="auto">**</code> b', id="signs in code"),
    ],
)
async def test_what_is_begun_looks_as_it_will(page: MessagePage, text: str, html: str) -> None:
    await page.show_text(text, status="streaming")
    assert html in await page.html()


async def test_a_growing_formula_is_its_source_until_it_is_closed(page: MessagePage) -> None:
    await page.show_text("Then\n\\[\n\\frac{a}{", status="streaming")
    assert await page.page.locator(".formula-source").inner_text() == "\\frac{a}{"
    await page.show_text("Then\n\\[\n\\frac{a}{b}\n\\]\nand \\(x_1\\), $y$.")
    await page.page.locator("div.formula math mfrac").wait_for()
    assert await page.page.locator(".message-text math").count() == 3
    assert await page.page.locator(".message-text").inner_text() != ""


async def test_a_formula_with_a_fault_stays_as_it_was_written(page: MessagePage) -> None:
    await page.show_text("$$\\frac{a}$$ and $$b$$")
    await page.page.locator(".message-text math").wait_for()
    assert await page.page.locator(".formula-source").all_inner_texts() == ["\\frac{a}"]


async def test_styles_of_a_formula_are_not_refused_by_the_policy(page: MessagePage) -> None:
    await page.show_text("$$\\pmb{b}$$")
    await page.page.locator(".message-text math").wait_for()
    assert await page.run("() => getComputedStyle(document.querySelector('mstyle')).fontWeight") == "700"
    assert await page.run("() => broken") == []


async def test_code_gets_colours_and_keeps_its_text(page: MessagePage) -> None:
    code = 'def f(x):\n    """한국어"""\n    return "<b>"  # end\n'
    await page.show_text(f"```Python title=x\n{code}```")
    await page.page.locator(".code-block .hljs-keyword").first.wait_for()
    assert await page.run("() => document.querySelector('.code-block code').textContent") == code.rstrip("\n")
    assert await page.page.locator(".code-language").inner_text() == "Python"
    assert await page.page.get_by_role("group", name="Code, Python").count() == 1


async def test_code_in_a_list_gets_colours_when_the_list_has_ended(page: MessagePage) -> None:
    code = "1. one\n\n   ```py\n   return 1\n   ```\n"
    await page.show_text(code + "2. two", status="streaming")
    await page.page.locator("li .code-block").wait_for()
    await page.run("() => new Promise((go) => setTimeout(go, 100))")
    assert await page.page.locator(".hljs-keyword").count() == 0
    await page.update(parts=[{"type": "text", "text": code + "2. two"}])
    await page.page.locator("li .hljs-keyword").wait_for()


async def test_code_and_formulas_can_be_read_without_the_network(browser: Browser) -> None:
    text = "```py\nreturn 1\n```\n\n\\(x^2\\)"
    async with message_page(browser) as page:
        page.unreachable = "/vendor/"
        await page.show_text(text)
        async with asyncio.timeout(10):
            while not {"/vendor/highlight.js/core.min.js", "/vendor/temml/temml.min.js"} <= set(page.requested):
                await asyncio.sleep(0.02)
        assert (await page.page.locator("pre").inner_text()).strip() == "return 1"
        assert await page.page.locator(".formula-source").inner_text() == "x^2"
        page.unreachable = "nothing"
        await page.show_text(text)
        await page.page.locator(".hljs-keyword").wait_for()
        await page.page.locator("math").wait_for()


async def test_every_grammar_can_be_loaded_and_used(page: MessagePage) -> None:
    names = sorted(path.name.removesuffix(".min.js") for path in LANGUAGES.iterdir())
    script = """async ({ colour, grammarOf }, names) => {
      const faults = names.filter((name) => grammarOf(name) !== name);
      for (const name of names) if (!(await colour("<a> 1 {{ x }} 'y'", name))) faults.push(name);
      return faults;
    }"""
    assert await page.module("/page/highlighter.js", script, names) == []
    aliases = "({ grammarOf }) => ['py', 'C++', 'sh', 'toml', 'constructor', 'nosuch'].map(grammarOf)"
    known = await page.module("/page/highlighter.js", aliases)
    assert known == ["python", "cpp", "bash", "ini", None, None]


async def test_ten_thousand_growing_lines_of_code_are_added_and_not_made_again(page: MessagePage) -> None:
    lines = [f"line {number} = {'x' * (number % 40)}\n" for number in range(10_000)]
    await page.show_text("```\n" + "".join(lines[:100]), status="streaming")
    await page.run("() => { window.chunk = document.querySelector('.code-lines'); window.reads = 0; }")
    for count in range(1000, 10_001, 1000):
        await page.update(parts=[{"type": "text", "text": "```\n" + "".join(lines[:count])}], status="streaming")
    await page.update(parts=[{"type": "text", "text": "```\n" + "".join(lines) + "```\n"}])
    assert await page.run("() => window.chunk === document.querySelector('.code-lines')")
    assert await page.run("() => document.querySelector('.code-block code').textContent") == "".join(lines).rstrip("\n")
    assert await page.run("() => document.querySelectorAll('.message-text *').length") < 100


async def test_growing_code_is_followed_unless_the_reader_scrolled_back(page: MessagePage) -> None:
    lines = [f"line {number}\n" for number in range(300)]
    distance = (
        "() => { const p = document.querySelector('pre'); return p.scrollHeight - p.scrollTop - p.clientHeight; }"
    )
    await page.show_text("```\n" + "".join(lines[:100]), status="streaming")
    assert await page.run(distance) > 100
    await page.run("() => { document.querySelector('pre').scrollTop = 1e6; }")
    await page.update(parts=[{"type": "text", "text": "```\n" + "".join(lines[:200])}], status="streaming")
    await page.wait("document.querySelector('code').textContent.includes('line 198')")
    assert await page.run(distance) < 2
    await page.run("() => { document.querySelector('pre').scrollTop = 0; }")
    await page.update(parts=[{"type": "text", "text": "```\n" + "".join(lines)}])
    assert await page.run("() => document.querySelector('pre').scrollTop") == 0


async def test_text_that_is_cut_is_shown_as_it_is_then(page: MessagePage) -> None:
    await page.show_text("One.\n\nTwo **bold**\n\nThree", status="streaming")
    await page.update(parts=[{"type": "text", "text": "One.\n\nTwo **bo"}], status="cancelled")
    assert (await page.page.locator(".message-text").inner_text()).split("\n\n") == ["One.", "Two **bo"]


async def test_a_text_that_had_ended_may_go_on(page: MessagePage) -> None:
    await page.show_text("One.\n\nTwo wor", status="interrupted")
    await page.update(parts=[{"type": "text", "text": "One.\n\nTwo words and"}], status="streaming")
    await page.update(parts=[{"type": "text", "text": "One.\n\nTwo words and more"}])
    assert await page.page.locator(".message-text > p").all_inner_texts() == ["One.", "Two words and more"]
    await page.update(parts=[{"type": "text", "text": "One.\n\nTwo wor"}], status="interrupted")
    await page.update(parts=[{"type": "text", "text": "One.\n\nTwo words and"}], status="streaming")
    await page.wait("document.querySelector('.message-text').textContent.endsWith('and')")
    assert await page.page.locator(".message-text > p").all_inner_texts() == ["One.", "Two words and"]


async def test_each_paragraph_has_its_own_direction(page: MessagePage) -> None:
    await page.show_text("مرحبا بالعالم\n\nHello\n\n- שלום\n\n```\ncode\n```")
    script = "() => [...document.querySelectorAll('p, li, pre')].map((one) => getComputedStyle(one).direction)"
    assert await page.run(script) == ["rtl", "ltr", "rtl", "ltr"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("> " * 20_000, id="quotes"),
        pytest.param("[a](" * 10_000, id="brackets"),
        pytest.param("*" * 20_000 + "a" + "*" * 20_000, id="stars"),
        pytest.param("\\[\n" * 10_000, id="formulas"),
        pytest.param("$a " * 16_000, id="dollars"),
        pytest.param("word " * 100_000, id="paragraph"),
        pytest.param("|" + "a|" * 500 + "\n|" + "-|" * 500 + "\n" + "|a|a|\n" * 2000, id="table"),
    ],
)
async def test_a_text_that_is_too_much_is_shown_whole_as_text(page: MessagePage, text: str) -> None:
    await page.show_text(text)
    shown = await page.run("() => document.querySelector('.message-text').textContent.replace(/\\s+/g, '').length")
    assert shown >= len("".join(text.split())) * 0.99
    assert await page.run("() => document.querySelectorAll('.message-text *').length") < 20_000
