"""The chat page's files: what the first load transfers, what imports what, and every word in every language."""

import gzip
import re
from pathlib import Path, PurePosixPath

import pytest

from chatbot.api.problems import CAUSES
from chatbot.web.assets import FOLDER, read_assets
from tests.support.page_files import first_load, imports_of, languages, later_imports_of, links_of, source_of

FIRST_LOAD_MAX_BYTES = 60_000
RENDERER_MAX_BYTES = 40_000  # follows the first load, or comes with a conversation at once
HTML_SINK = re.compile(r"\b(innerHTML|outerHTML|insertAdjacentHTML|createPolicy|srcdoc|document\.write)\b|\beval\(")
ASSETS = read_assets()
MODULES = sorted(path for path in ASSETS.files if path.endswith((".js", ".mjs")))
OWN = [path for path in MODULES if path.startswith("page/") and path not in languages(ASSETS)]


def compressed_bytes(body: bytes) -> int:
    return len(gzip.compress(body, 6, mtime=0))  # as they are served


def test_the_first_load_is_small() -> None:
    links = links_of(ASSETS)
    paths = [*links["stylesheet"], *links["script"], *links["icon"], *first_load(ASSETS)]
    sizes = {path: compressed_bytes(ASSETS.files[path].body) for path in paths}
    sizes["the index"] = compressed_bytes(ASSETS.index_for(""))
    sizes["the texts"] = max(compressed_bytes(ASSETS.files[path].body) for path in languages(ASSETS))
    assert sum(sizes.values()) <= FIRST_LOAD_MAX_BYTES, sizes


def test_what_shows_messages_is_small() -> None:
    known, waiting, total = set(first_load(ASSETS)), ["page/log_view.js"], 0
    while waiting:
        path = waiting.pop()
        if path not in known:
            known.add(path)
            total += compressed_bytes(ASSETS.files[path].body)
            waiting += imports_of(ASSETS, path)
    assert 0 < total <= RENDERER_MAX_BYTES


def test_the_index_preloads_what_the_first_load_imports() -> None:
    entry, *imported = first_load(ASSETS)
    assert links_of(ASSETS)["module"] == [entry]
    assert sorted(links_of(ASSETS)["modulepreload"]) == sorted(imported)


@pytest.mark.parametrize("path", MODULES)
def test_every_import_leads_to_a_file_that_is_served(path: str) -> None:
    for imported in (*imports_of(ASSETS, path), *later_imports_of(ASSETS, path)):
        assert imported in ASSETS.files, imported


def test_no_file_of_the_page_names_another_host() -> None:
    for path in (*OWN, "page/style.css"):
        found = re.findall(r"(?:https?:)?//[\w.-]+\.\w{2,}[^\s\"'`]*", source_of(ASSETS, path))
        assert not [url for url in found if "www.w3.org" not in url], path  # the name of SVG, which nobody calls
    assert not re.search(r"//", ASSETS.index)


def test_the_index_has_no_inline_code() -> None:
    assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)", ASSETS.index)


@pytest.mark.parametrize("path", OWN)
def test_no_module_makes_html_of_text(path: str) -> None:
    assert not HTML_SINK.search(source_of(ASSETS, path))


def texts_of(path: str) -> dict[str, str]:
    """The texts of a language; those with plural forms joined."""
    found = re.findall(
        r'^  "([\w.-]+)":\s*(.*?),?$(?=\n  "|\n};|\n\n|\n  //)',
        ASSETS.files[path].body.decode(),
        re.MULTILINE | re.DOTALL,
    )
    assert len({key for key, _ in found}) == len(found), f"{path} has a key twice"
    return dict(found)


@pytest.mark.parametrize("path", languages(ASSETS))
def test_every_language_has_the_same_texts_with_the_same_values(path: str) -> None:
    english, own = texts_of(str(PurePosixPath(path).with_name("en.js"))), texts_of(path)
    assert own.keys() == english.keys()
    for key, text in own.items():
        assert set(re.findall(r"{(\w+)}", text)) == set(re.findall(r"{(\w+)}", english[key])), key


def test_every_text_is_used_and_every_used_one_exists() -> None:
    texts = texts_of("page/texts/en.js").keys() | texts_of("page/texts/later/en.js").keys()
    source = "\n".join(source_of(ASSETS, path) for path in OWN)
    used = set(re.findall(r"""\bt\(\s*["']([\w.-]+)["']""", source))
    assert used <= texts
    started = set(re.findall(r"""`([\w-]+(?:\.[\w-]+)*\.)\$\{""", source))  # t(`status.${word}`)
    quoted = set(re.findall(r"""["']([\w-]+(?:\.[\w-]+)+)["']""", source))  # keys in tables
    unused = {key for key in texts - used - quoted if not any(key.startswith(one) for one in started)}
    assert not unused


def test_the_page_has_words_for_every_title_that_tells_why_a_reply_failed() -> None:
    source = source_of(ASSETS, "page/reply_failure.js")
    told_by_detail = {"LLM server failed", "Reply interrupted"}
    assert not [title for _, title in CAUSES.values() if title not in source and title not in told_by_detail]


def test_every_language_is_offered() -> None:
    source = source_of(ASSETS, "page/i18n.js")
    loaded = [*later_imports_of(ASSETS, "page/i18n.js"), *later_imports_of(ASSETS, "page/later_texts.js")]
    assert sorted(loaded) == languages(ASSETS)
    assert set(re.findall(r'code: "(\w+)"', source)) == {Path(path).stem for path in languages(ASSETS)}


def test_files_of_unknown_types_are_not_served() -> None:
    assert "page/index.html" not in ASSETS.files
    assert all((FOLDER / path).is_file() for path in ASSETS.files)
    assert not [path for path in ASSETS.files if path.endswith((".py", ".md", ".txt"))]
